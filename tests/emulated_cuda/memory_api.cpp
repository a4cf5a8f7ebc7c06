// Allocating, copying and setting of the emulated runtime.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/emulated_cuda/state.hpp"

using namespace emulated_cuda;

namespace {

/// One side of a copy: rows of bytes, in slices.
struct Side {
  std::byte* begin;
  std::size_t pitch;        ///< from one row to the next
  std::size_t slice_pitch;  ///< from one slice to the next
  int device;
};

struct Extent {
  std::size_t width, height = 1, depth = 1;
  [[nodiscard]] std::size_t bytes() const { return width * height * depth; }
};

Side flat(const void* pointer, int device) {
  // A copy's source is never written.
  return {static_cast<std::byte*>(const_cast<void*>(pointer)), 0, 0, device};
}

bool on_host(const Side& side) { return side.device == host; }

/// Device memory must be that of the device said; host memory may be any but a device's.
cudaError_t check_side(const Side& side, const Extent& extent, const char* name) {
  const std::size_t bytes =
      (extent.depth - 1) * side.slice_pitch + (extent.height - 1) * side.pitch + extent.width;
  const auto region = Memory::instance().find(side.begin);
  if (on_host(side)) {
    if (!region || region->device == host) return cudaSuccess;
    return complain(cudaErrorInvalidValue, std::string("a copy's ") + name +
                                               " is said to be on the host, and is " +
                                               describe(side.begin));
  }
  if (check_access(side.device, side.begin, bytes, std::string("a copy's ") + name) != cudaSuccess)
    return cudaErrorInvalidValue;
  if (region->device == side.device) return cudaSuccess;
  return complain(cudaErrorInvalidValue, std::string("a copy's ") + name +
                                             " is said to be on a device, and is " +
                                             describe(side.begin));
}

bool pageable(const Side& side) { return on_host(side) && !Memory::instance().find(side.begin); }

void count_copy(const Side& to, const Side& from, std::size_t bytes) {
  Counters& c = counters();
  if (on_host(from) && !on_host(to)) c.host_to_device.add(bytes);
  if (!on_host(from) && on_host(to)) c.device_to_host.add(bytes);
  if (on_host(from) || on_host(to)) return;
  (from.device == to.device ? c.on_device : c.peer).add(bytes);
}

void copy_bytes(const Side& to, const Side& from, const Extent& extent) {
  for (std::size_t z = 0; z < extent.depth; ++z) {
    for (std::size_t y = 0; y < extent.height; ++y)
      std::memcpy(to.begin + z * to.slice_pitch + y * to.pitch,
                  from.begin + z * from.slice_pitch + y * from.pitch, extent.width);
  }
}

cudaError_t copy_now(const Side& to, const Side& from, const Extent& extent) {
  if (extent.bytes() == 0) return cudaSuccess;
  for (const auto& [side, name] : {std::pair(&to, "destination"), std::pair(&from, "source")}) {
    const cudaError_t error = check_side(*side, extent, name);
    if (error != cudaSuccess) return record(error);
    if (lost(side->device)) return record(cudaErrorLaunchFailure);
  }
  count_copy(to, from, extent.bytes());
  copy_bytes(to, from, extent);
  return cudaSuccess;
}

/// Pageable memory is read before the call returns.
cudaError_t copy_from_staging(const Side& to, const Side& from, const Extent& extent,
                              cudaStream_t stream) {
  const auto staged = std::make_shared<std::vector<std::byte>>(extent.bytes());
  const Side staging{staged->data(), extent.width, extent.width * extent.height, host};
  copy_bytes(staging, from, extent);
  return enqueue(stream, [staged, to, staging, extent] { return copy_now(to, staging, extent); });
}

/// Refuses at once what would fail when it runs, also where it is captured.
cudaError_t copy_async(const Side& to, const Side& from, const Extent& extent,
                       cudaStream_t stream) {
  if (extent.bytes() > 0) {
    for (const auto& [side, name] : {std::pair(&to, "destination"), std::pair(&from, "source")}) {
      const cudaError_t error = check_side(*side, extent, name);
      if (error != cudaSuccess) return record(error);
    }
  }
  if (pageable(to) || pageable(from)) ++counters().unpinned;
  const bool at_once = pageable(to) && !captures(stream);  // as CUDA does
  if (pageable(from) && !captures(stream)) return copy_from_staging(to, from, extent, stream);
  const cudaError_t error = enqueue(stream, [=] { return copy_now(to, from, extent); });
  return error == cudaSuccess && at_once ? finish_stream(stream) : error;
}

cudaError_t copy_and_wait(const char* function, const Side& to, const Side& from,
                          const Extent& extent) {
  ++counters().synchronisations;
  const cudaError_t allowed = check_not_capturing(function);
  if (allowed != cudaSuccess) return allowed;
  return enqueue(nullptr, [=] { return copy_now(to, from, extent); });
}

/// Where a pointer of an unspecified copy lies.
int place_of(const void* pointer) {
  const auto region = Memory::instance().find(pointer);
  return region ? region->device : host;
}

struct Places {
  int to, from;
};

/// What a copy's kind says of `device`'s stream.
Places places(cudaMemcpyKind kind, const void* to, const void* from, int device) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return {host, host};
    case cudaMemcpyHostToDevice:
      return {device, host};
    case cudaMemcpyDeviceToHost:
      return {host, device};
    case cudaMemcpyDeviceToDevice:
      return {device, device};
    case cudaMemcpyDefault:
      break;
  }
  return {place_of(to), place_of(from)};
}

cudaError_t set_now(int device, void* pointer, std::size_t pitch, int value, const Extent& extent) {
  if (extent.bytes() == 0) return cudaSuccess;
  const Side side{static_cast<std::byte*>(pointer), pitch, 0, device};
  const cudaError_t error = check_side(side, extent, "destination (a memset's)");
  if (error != cudaSuccess) return record(error);
  if (lost(device)) return record(cudaErrorLaunchFailure);
  for (std::size_t y = 0; y < extent.height; ++y)
    std::memset(side.begin + y * pitch, value, extent.width);
  return cudaSuccess;
}

struct PeerCopy {
  Side to, from;
  Extent extent;
};

Side pitched(const cudaPitchedPtr& pointer, const cudaPos& at, int device) {
  const std::size_t slice = pointer.pitch * pointer.ysize;
  return {static_cast<std::byte*>(pointer.ptr) + at.z * slice + at.y * pointer.pitch + at.x,
          pointer.pitch, slice, device};
}

PeerCopy peer_copy(const cudaMemcpy3DPeerParms& p) {
  return {pitched(p.dstPtr, p.dstPos, p.dstDevice),
          pitched(p.srcPtr, p.srcPos, p.srcDevice),
          {p.extent.width, p.extent.height, p.extent.depth}};
}

PeerCopy copy_3d(const cudaMemcpy3DParms& p, int device) {
  const Places at = places(p.kind, p.dstPtr.ptr, p.srcPtr.ptr, device);
  return {pitched(p.dstPtr, p.dstPos, at.to),
          pitched(p.srcPtr, p.srcPos, at.from),
          {p.extent.width, p.extent.height, p.extent.depth}};
}

cudaError_t allocate(void** pointer, std::size_t bytes, int device) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = Memory::instance().allocate(device, bytes);
  return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t release(void* pointer) {
  if (!pointer) return cudaSuccess;
  ++counters().frees;
  return Memory::instance().release(pointer, false);
}

/// All work of the device comes before a copy that waits between devices.
cudaError_t finish_devices(int to, int from) {
  const cudaError_t error = finish_device(from);
  return error == cudaSuccess ? finish_device(to) : error;
}

}  // namespace

extern "C" {

// ---- Allocating -------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  return api_outside_capture(__func__, [&] { return allocate(pointer, bytes, current_device()); });
}

cudaError_t cudaFree(void* pointer) {
  return api_outside_capture(__func__, [&] {
    // CUDA may wait for the device here, but does not promise it.
    return release(pointer);
  });
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream) {
  return api_outside_capture(__func__, [&] { return allocate(pointer, bytes, device_of(stream)); });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return enqueue(stream, [=] { return release(pointer); });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return api_outside_capture(__func__, [&] { return allocate(pointer, bytes, host); });
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  return api_outside_capture(
      __func__, [&] { return pointer ? Memory::instance().release(pointer, true) : cudaSuccess; });
}

cudaError_t cudaHostRegister(void* pointer, std::size_t bytes, unsigned) {
  return api_outside_capture(__func__, [&] {
    if (!pointer || bytes == 0) return cudaErrorInvalidValue;
    if (Memory::instance().find(pointer)) return cudaErrorHostMemoryAlreadyRegistered;
    Memory::instance().pin(pointer, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaHostUnregister(void* pointer) {
  return api_outside_capture(__func__,
                             [&] { return Memory::instance().release(pointer, true, true); });
}

cudaError_t cudaHostGetDevicePointer(void** device_pointer, void* pointer, unsigned) {
  return api([&] {
    const auto region = Memory::instance().find(pointer);
    if (!region || region->device != host)
      return complain(cudaErrorInvalidValue, "not pinned: " + describe(pointer));
    *device_pointer = pointer;
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return api([&] {
    *attributes = {};
    attributes->device = current_device();
    const auto region = Memory::instance().find(pointer);
    auto* address = const_cast<void*>(pointer);  // CUDA's struct holds no pointer to const
    if (!region) {
      attributes->type = cudaMemoryTypeUnregistered;
      attributes->hostPointer = address;
    } else if (region->device == host) {
      attributes->type = cudaMemoryTypeHost;
      attributes->hostPointer = attributes->devicePointer = address;
    } else {
      attributes->type = cudaMemoryTypeDevice;
      attributes->device = region->device;
      attributes->devicePointer = address;
    }
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return api([&] {
    *total = settings().bytes_per_device;
    *free = *total - Memory::instance().used(current_device());
    return cudaSuccess;
  });
}

// ---- Copying ----------------------------------------------------------------------------------

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&] {
    const Places at = places(kind, to, from, device_of(stream));
    Side target = flat(to, at.to), source = flat(from, at.from);
    target.pitch = to_pitch, source.pitch = from_pitch;
    return copy_async(target, source, {width, height}, stream);
  });
}

cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  return api([&] {
    const Places at = places(kind, to, from, current_device());
    Side target = flat(to, at.to), source = flat(from, at.from);
    target.pitch = to_pitch, source.pitch = from_pitch;
    return copy_and_wait("cudaMemcpy2D", target, source, {width, height});
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, 0, from, 0, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpy2D(to, 0, from, 0, bytes, 1, kind);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                std::size_t bytes, cudaStream_t stream) {
  return api(
      [&] { return copy_async(flat(to, to_device), flat(from, from_device), {bytes}, stream); });
}

cudaError_t cudaMemcpyPeer(void* to, int to_device, const void* from, int from_device,
                           std::size_t bytes) {
  return api([&] {
    const cudaError_t error = finish_devices(to_device, from_device);
    if (error != cudaSuccess) return error;
    return copy_and_wait("cudaMemcpyPeer", flat(to, to_device), flat(from, from_device), {bytes});
  });
}

cudaError_t cudaMemcpy3DPeerAsync(const cudaMemcpy3DPeerParms* parameters, cudaStream_t stream) {
  return api([&] {
    const PeerCopy copy = peer_copy(*parameters);
    return copy_async(copy.to, copy.from, copy.extent, stream);
  });
}

cudaError_t cudaMemcpy3DPeer(const cudaMemcpy3DPeerParms* parameters) {
  return api([&] {
    const PeerCopy copy = peer_copy(*parameters);
    const cudaError_t error = finish_devices(copy.to.device, copy.from.device);
    if (error != cudaSuccess) return error;
    return copy_and_wait("cudaMemcpy3DPeer", copy.to, copy.from, copy.extent);
  });
}

cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* parameters, cudaStream_t stream) {
  return api([&] {
    const PeerCopy copy = copy_3d(*parameters, device_of(stream));
    return copy_async(copy.to, copy.from, copy.extent, stream);
  });
}

cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* parameters) {
  return api([&] {
    const PeerCopy copy = copy_3d(*parameters, current_device());
    return copy_and_wait("cudaMemcpy3D", copy.to, copy.from, copy.extent);
  });
}

// ---- Setting ----------------------------------------------------------------------------------

cudaError_t cudaMemset2DAsync(void* pointer, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t stream) {
  return enqueue(stream, [=, device = device_of(stream)] {
    return set_now(device, pointer, pitch, value, {width, height});
  });
}

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(pointer, 0, value, bytes, 1, stream);
}

cudaError_t cudaMemset2D(void* pointer, std::size_t pitch, int value, std::size_t width,
                         std::size_t height) {
  return api_outside_capture(
      __func__, [&] { return cudaMemset2DAsync(pointer, pitch, value, width, height, nullptr); });
}

cudaError_t cudaMemset(void* pointer, int value, std::size_t bytes) {
  return cudaMemset2D(pointer, 0, value, bytes, 1);
}

}  // extern "C"
