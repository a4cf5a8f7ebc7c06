// What a batch of JPEG files costs one core (read, decode, resize, crop, normalise) against
// libjpeg-turbo's decoding alone, from memory to RGB, of the same files; interleaved in one
// process.
//
//   decode_bench <folder with train/ and val/> [image_size] [crop_size]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// After <cstdio>: it uses FILE.
#include <jpeglib.h>

#include "data/augmentation.hpp"
#include "data/cached_dataset.hpp"
#include "data/image_folder.hpp"
#include "data/loader.hpp"
#include "runtime/runtime.hpp"

namespace {

using namespace stpt;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<unsigned char>;

constexpr std::size_t most_images = 512;
constexpr std::size_t batch = 64;

template <class Work>
double seconds_of(Work work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<Bytes> read_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  paths.resize(std::min(paths.size(), most_images));
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return files;
}

class RawDecoder {
 public:
  RawDecoder() {
    jpeg_.err = jpeg_std_error(&errors_);
    jpeg_create_decompress(&jpeg_);
  }
  ~RawDecoder() { jpeg_destroy_decompress(&jpeg_); }
  RawDecoder(const RawDecoder&) = delete;
  RawDecoder& operator=(const RawDecoder&) = delete;

  /// To RGB, scaled to the smallest of the `numerators` eighths that has `side` pixels both ways.
  void decode(const Bytes& file, int side, std::initializer_list<unsigned> numerators) {
    jpeg_mem_src(&jpeg_, file.data(), file.size());
    jpeg_read_header(&jpeg_, TRUE);
    jpeg_.out_color_space = JCS_RGB;
    jpeg_.scale_denom = 8;
    jpeg_.scale_num = 8;
    const unsigned shorter = std::min(jpeg_.image_width, jpeg_.image_height);
    for (const unsigned numerator : numerators) {
      if (shorter * numerator >= 8U * static_cast<unsigned>(side)) {
        jpeg_.scale_num = numerator;
        break;
      }
    }
    jpeg_start_decompress(&jpeg_);
    const std::size_t stride = std::size_t{jpeg_.output_width} * 3;
    pixels_.resize(stride * jpeg_.output_height);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = pixels_.data() + stride * jpeg_.output_scanline;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
  }

 private:
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  Bytes pixels_;
};

/// Images a second on all cores, by tasks that load `per_task` images each.
double through_starpu(const data::Loader& loader, const runtime::Shape& shape,
                      std::span<const std::uint32_t> indices, std::size_t per_task) {
  // As many as 8 logical workers have with two steps in flight and the next one loading.
  constexpr std::size_t batches_in_flight = 24;
  std::vector<data::Batch> ring;
  for (std::size_t i = 0; i < batches_in_flight * batch / per_task; ++i) {
    ring.emplace_back(static_cast<int>(per_task), shape, "batch");
  }
  constexpr int epochs = 4;
  const double seconds = seconds_of([&] {
    std::size_t next = 0;
    for (int epoch = 0; epoch < epochs; ++epoch) {
      for (std::size_t i = 0; i < indices.size(); i += per_task) {
        loader.submit(ring[next++ % ring.size()], indices.subspan(i, per_task), 1);
      }
    }
    runtime::Runtime::current().wait_for_all();
  });
  return static_cast<double>(epochs * indices.size()) / seconds;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: decode_bench FOLDER [image_size] [crop_size]\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  const int image_size = argc > 2 ? std::atoi(argv[2]) : 256;
  const int crop_size = argc > 3 ? std::atoi(argv[3]) : 224;

  const std::vector<Bytes> files = read_files(folder / "train");
  const data::DatasetPair pair =
      data::load_image_folder(folder, {image_size, data::ResizeMode::stretch, 0});
  const data::CachedDataset cache(pair.train, std::size_t{1} << 30U);
  const std::size_t count = files.size() / batch * batch;
  std::vector<std::uint32_t> indices(count);
  for (std::uint32_t i = 0; i < count; ++i) indices[i] = i;
  const data::Normalization normalization = data::compute_normalization(*pair.train, indices);
  const data::Normalization of_cached = data::compute_normalization(cache, indices);
  const runtime::Shape shape{1, 3, crop_size, crop_size};
  std::vector<float> images(batch * static_cast<std::size_t>(shape.elements()));

  RawDecoder raw;
  const auto raw_of = [&](std::initializer_list<unsigned> numerators) {
    return [&, numerators] {
      for (std::size_t i = 0; i < count; ++i) raw.decode(files[i], image_size, numerators);
    };
  };
  const auto load = [&](const data::Dataset& dataset, const data::Normalization& statistics,
                        const data::Augmentation& augmentation) {
    return [&] {
      for (std::size_t i = 0; i < count; i += batch) {
        data::load_images(dataset, std::span(indices).subspan(i, batch), shape, &augmentation,
                          statistics, 1, 1, images.data());
      }
    };
  };
  const data::Augmentation crop{.flip = true};
  const data::Augmentation resized{.flip = true, .random_resized_crop = true};
  constexpr int rounds = 9;
  std::vector<double> eighths, halves, whole, random, kept, ratios, half_ratios;
  for (int round = 0; round < rounds; ++round) {
    eighths.push_back(seconds_of(raw_of({1, 2, 3, 4, 5, 6, 7})));
    halves.push_back(seconds_of(raw_of({1, 2, 4})));
    whole.push_back(seconds_of(load(*pair.train, normalization, crop)));
    random.push_back(seconds_of(load(*pair.train, normalization, resized)));
    kept.push_back(seconds_of(load(cache, of_cached, crop)));
    ratios.push_back(eighths.back() / whole.back());
    half_ratios.push_back(halves.back() / whole.back());
  }
  const auto print = [count](const char* what, const std::vector<double>& seconds) {
    std::printf("%-62s %8.0f images/s\n", what, static_cast<double>(count) / median(seconds));
  };
  std::printf("%zu files, to %d, cut to %d, one core, median of %d rounds\n", count, image_size,
              crop_size, rounds);
  print("libjpeg-turbo alone, to RGB, the smallest M/8 that suffices", eighths);
  print("libjpeg-turbo alone, to RGB, the smallest of 1/8, 2/8, 4/8, 8/8", halves);
  print("batches: read, decode, resize, crop and flip, normalise", whole);
  print("batches with random_resized_crop", random);
  print("batches from the cache", kept);
  std::printf("batches against libjpeg-turbo: %.2f (M/8), %.2f (1/8, 2/8, 4/8, 8/8)\n",
              median(ratios), median(half_ratios));

  const runtime::Runtime runtime;
  const data::Loader loader(pair.train, normalization, crop, 1);
  std::vector<double> tasks, parts;
  for (int round = 0; round < rounds; ++round) {
    tasks.push_back(through_starpu(loader, shape, indices, batch));
    parts.push_back(through_starpu(loader, shape, indices, batch / 4));
  }
  std::printf("on %zu cores through StarPU: %.0f images/s, batches in four parts %.0f images/s\n",
              runtime.workers().size(), median(tasks), median(parts));
  return 0;
}
