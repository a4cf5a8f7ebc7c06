// Streams and events of the emulated runtime.
#include "tests/emulated_cuda/streams.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace emulated_cuda {
namespace {

cudaError_t no_event() {
  return complain(cudaErrorInvalidResourceHandle, "an event that does not exist, or no more");
}

/// What somebody waits for who waits for an event.
struct Awaited {
  Clock::time_point happens;               ///< among pretended graphs
  std::shared_ptr<DeferredWork> deferred;  ///< null: none
  std::uint64_t position = 0;
  bool asked = false;  ///< before

  [[nodiscard]] bool finished() const { return !deferred || deferred->finished >= position; }
  [[nodiscard]] cudaError_t finish() const {
    return finished() ? cudaSuccess : emulated_cuda::finish(*deferred, position);
  }
};

/// An error if the event is captured.
cudaError_t find_awaited(cudaEvent_t event, const char* function, Awaited& awaited) {
  return api_outside_capture(function, [&] {
    if (!objects().events.contains(event)) return no_event();
    const auto lock = lock_captures();
    awaited = {event->happens, event->deferred, event->position, std::exchange(event->asked, true)};
    if (!event->capture) return cudaSuccess;
    event->capture->invalid = true;
    return complain(cudaErrorCapturedEvent, "a captured event is asked whether it has happened");
  });
}

/// For those who run deferred work: one thread at a time, since a stream may wait for another.
std::recursive_mutex& running_deferred() {
  static std::recursive_mutex& mutex = *new std::recursive_mutex;
  return mutex;
}

void defer(DeferredWork& work, Operation operation) {
  std::lock_guard lock(work.mutex);
  work.operations.push_back(std::move(operation));
  ++work.enqueued;
}

/// How much has been enqueued.
std::uint64_t position_of(DeferredWork& work) {
  std::lock_guard lock(work.mutex);
  return work.enqueued;
}

cudaError_t finish_all(DeferredWork& work) { return finish(work, position_of(work)); }

cudaError_t finish_streams(int device, bool non_blocking) {
  std::vector<std::shared_ptr<DeferredWork>> works;
  objects().streams.for_each([&](const CUstream_st& stream) {
    if (stream.device == device && (non_blocking || !(stream.flags & cudaStreamNonBlocking)))
      works.push_back(stream.deferred);
  });
  for (const auto& work : works) finish_all(*work);
  return check_device(device);
}

/// The default stream waits for all others but non-blocking ones: captured ones cannot be waited
/// for.
cudaError_t check_legacy(const CUstream_st& stream) {
  if (!stream.legacy) return cudaSuccess;
  bool spoilt = false;
  for (const auto& capture : objects().captures) {
    if (capture->origin->device != stream.device ||
        (capture->origin->flags & cudaStreamNonBlocking) != 0)
      continue;
    capture->invalid = spoilt = true;
  }
  if (!spoilt) return cudaSuccess;
  return complain(cudaErrorStreamCaptureImplicit,
                  "the default stream is used while a blocking stream captures");
}

}  // namespace

Objects& objects() {
  static Objects& objects = *new Objects;
  return objects;
}

std::unique_lock<std::mutex> lock_captures() { return std::unique_lock(objects().captures_mutex); }

CUstream_st* resolve(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy)
    return &objects().legacy[static_cast<std::size_t>(current_device())];
  return objects().streams.contains(handle) ? handle : nullptr;
}

cudaError_t no_stream() {
  return complain(cudaErrorInvalidResourceHandle, "a stream that does not exist, or no more");
}

bool captures(const CUstream_st& stream) {
  const auto lock = lock_captures();
  return stream.capture != nullptr;
}

cudaError_t enqueue_on(CUstream_st& stream, Operation operation) {
  {
    const auto lock = lock_captures();
    if (const auto& capture = stream.capture) {
      if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
      capture->graph->content.operations.push_back(std::move(operation));
      Capture::Member& member = capture->members[&stream];
      ++member.operations;
      member.joined = false;
      return cudaSuccess;
    }
    const cudaError_t allowed = check_legacy(stream);
    if (allowed != cudaSuccess) return allowed;
  }
  if (deferring() && !stream.legacy) {
    defer(*stream.deferred, std::move(operation));
    return cudaSuccess;
  }
  if (stream.legacy) finish_streams(stream.device, false);
  std::lock_guard running(stream.running);
  return operation();
}

cudaError_t finish(DeferredWork& work, std::uint64_t count) {
  std::lock_guard running(running_deferred());
  while (work.finished < count) {
    Operation operation;
    {
      std::lock_guard lock(work.mutex);
      operation = std::move(work.operations.front());
      work.operations.pop_front();
    }
    if (check_device(work.device) == cudaSuccess) {
      const cudaError_t error = operation();
      if (error != cudaSuccess) fail_device(work.device, error);
    }
    ++work.finished;
  }
  return check_device(work.device);
}

cudaError_t finish_device(int device) { return finish_streams(device, true); }

cudaError_t finish_stream(cudaStream_t handle) {
  return with_stream(handle, [](CUstream_st& stream) { return finish_all(*stream.deferred); });
}

bool captures(cudaStream_t handle) {
  const CUstream_st* stream = resolve(handle);
  return stream && captures(*stream);
}

cudaError_t refuse_captured(CUstream_st& stream, const char* function) {
  stream.capture->invalid = true;
  return complain(cudaErrorStreamCaptureUnsupported,
                  std::string(function) + " on a stream that captures");
}

cudaError_t enqueue(cudaStream_t handle, Operation operation) {
  return with_stream(handle,
                     [&](CUstream_st& stream) { return enqueue_on(stream, std::move(operation)); });
}

int device_of(cudaStream_t handle) {
  const CUstream_st* stream = resolve(handle);
  return stream ? stream->device : current_device();
}

void release_streams(int device) {
  objects().streams.remove_if([&](const CUstream_st& stream) { return stream.device == device; });
  objects().events.remove_if([&](const CUevent_st& event) { return event.device == device; });
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

extern "C" {

// ---- Streams ----------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return api([&] {
    auto created = std::make_unique<CUstream_st>(current_device());
    created->flags = flags;
    created->priority = priority;
    *stream = objects().streams.add(std::move(created));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    {
      const auto lock = lock_captures();
      if (stream.capture) return refuse_captured(stream, "cudaStreamDestroy");
    }
    finish_all(*stream.deferred);
    return objects().streams.remove(handle) ? cudaSuccess : no_stream();
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    ++counters().synchronisations;
    {
      const auto lock = lock_captures();
      if (stream.capture) return refuse_captured(stream, "cudaStreamSynchronize");
    }
    const cudaError_t allowed = check_not_capturing("cudaStreamSynchronize");
    if (allowed != cudaSuccess) return allowed;
    if (stream.legacy) finish_streams(stream.device, false);
    const cudaError_t error = finish_all(*stream.deferred);
    std::lock_guard wait(stream.running);
    std::this_thread::sleep_until(stream.busy_until.load());
    return error;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return with_stream(handle, [](CUstream_st& stream) {
    {
      const auto lock = lock_captures();
      if (stream.capture) return refuse_captured(stream, "cudaStreamQuery");
    }
    const std::uint64_t position = position_of(*stream.deferred);
    if (stream.deferred->finished < position && stream.asked_for.exchange(position) != position)
      return cudaErrorNotReady;
    const cudaError_t error = finish(*stream.deferred, position);
    if (error != cudaSuccess) return error;
    return Clock::now() < stream.busy_until.load() ? cudaErrorNotReady : cudaSuccess;
  });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *flags = stream.flags;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *priority = stream.priority;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *device = stream.device;
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* argument) {
  return enqueue(handle, [=] {
    function(argument);
    return cudaSuccess;
  });
}

// ---- Events -----------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api([&] {
    auto created = std::make_unique<CUevent_st>();
    created->flags = flags;
    created->device = current_device();
    *event = objects().events.add(std::move(created));
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api([&] { return objects().events.remove(event) ? cudaSuccess : no_event(); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (!objects().events.contains(event)) return no_event();
    if (event->device != stream.device)
      return complain(cudaErrorInvalidResourceHandle,
                      "an event is recorded on a stream of another device");
    const auto lock = lock_captures();
    event->recorded = true;
    event->time = Clock::now();
    event->happens = stream.busy_until;
    event->capture = stream.capture;
    event->stream = &stream;
    event->deferred = stream.deferred;
    event->position = position_of(*stream.deferred);
    event->asked = false;
    if (!stream.capture) return check_legacy(stream);
    if (stream.capture->invalid) return cudaErrorStreamCaptureInvalidated;
    event->operations = stream.capture->members[&stream].operations;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (flags != cudaEventRecordDefault)
    return complain(cudaErrorNotSupported, "external events are not emulated");
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Awaited awaited;
  const cudaError_t error = find_awaited(event, __func__, awaited);
  if (error != cudaSuccess) return error;
  if (Clock::now() < awaited.happens || (!awaited.finished() && !awaited.asked))
    return cudaErrorNotReady;
  return awaited.finish();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++counters().synchronisations;
  Awaited awaited;
  const cudaError_t error = find_awaited(event, __func__, awaited);
  if (error != cudaSuccess) return error;
  std::this_thread::sleep_until(awaited.happens);
  return awaited.finish();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&] {
    if (!objects().events.contains(start) || !objects().events.contains(end)) return no_event();
    const auto timed = [](cudaEvent_t event) {
      return event->recorded && !event->capture && !(event->flags & cudaEventDisableTiming);
    };
    if (!timed(start) || !timed(end))
      return complain(cudaErrorInvalidResourceHandle, "an event that keeps no time");
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (!objects().events.contains(event)) return no_event();
    const auto lock = lock_captures();
    const std::shared_ptr<Capture>& capture = event->capture;
    if (!capture) {  // it has happened, or will
      stream.busy_until = std::max(stream.busy_until.load(), event->happens);
      if (!stream.capture || !event->recorded) {
        if (event->deferred && event->deferred->finished < event->position)
          defer(*stream.deferred, [work = event->deferred, position = event->position] {
            return finish(*work, position);
          });
        return cudaSuccess;
      }
      stream.capture->invalid = true;
      return complain(cudaErrorStreamCaptureIsolation,
                      "a captured stream waits for an event from outside its capture");
    }
    if (stream.capture && stream.capture != capture) {
      stream.capture->invalid = capture->invalid = true;
      return complain(cudaErrorStreamCaptureMerge, "two captures would become one");
    }
    if (stream.legacy || std::find(objects().captures.begin(), objects().captures.end(), capture) ==
                             objects().captures.end())
      return complain(cudaErrorStreamCaptureImplicit, "a wait for an event of another capture");
    stream.capture = capture;
    capture->members.try_emplace(&stream);
    Capture::Member& waited_for = capture->members[event->stream];
    if (event->stream != &stream && waited_for.operations == event->operations)
      waited_for.joined = true;
    return cudaSuccess;
  });
}

}  // extern "C"
