#include "stpt/session.hpp"

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "data/augmentation.hpp"
#include "data/sampler.hpp"
#include "models/averages.hpp"
#include "models/program.hpp"
#include "tests/gpu.hpp"
#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;

// What the run file says reaches what does it. That the same bits come out whatever it says of
// workers and schedulers would not show it.

namespace {

/// What training loads in iteration 1 of epoch 3, in logical worker 2.
std::vector<float> loaded(const Experiment& run) {
  Session session(run);
  const auto batches = session.load(run.sampler.order(3), 1, run.team(), 3);
  session.runtime.wait_for_all();
  const data::Batch& batch = batches[2];
  std::vector<float> images;
  for (const runtime::Tensor& part : batch.images) {
    const runtime::HostView view(part, runtime::Access::read);
    images.insert(images.end(), view.as<float>().begin(), view.as<float>().end());
  }
  return images;
}

std::vector<float> expected(const Experiment& run, const data::Augmentation* augmentation) {
  const auto all = static_cast<std::size_t>(run.config.training.workers);
  const auto size = static_cast<std::size_t>(run.config.training.batch_per_worker);
  const std::vector<std::uint32_t> order = run.sampler.order(3);
  const auto indices = data::worker_batch(order, 1, 2, all, size);
  std::vector<float> images(size * static_cast<std::size_t>(run.network.input().elements()));
  data::load_images(*run.data.train, indices, run.network.input(), augmentation, run.normalization,
                    run.config.training.seed, 3, images.data());
  return images;
}

}  // namespace

TEST_CASE("a session has the StarPU workers and the scheduler of the run file", "[session]") {
  const WithEnvironment cores("STARPU_NCUDA", "0");  // GPUs need a scheduler of their own
  for (const char* scheduler : {"eager", "dmda"}) {
    for (const int workers : {1, 2}) {
      const Experiment run =
          experiment(small + Overrides{"runtime.cpu_workers=" + std::to_string(workers),
                                       "runtime.scheduler=" + std::string(scheduler)});
      const Session session(run);
      CHECK(std::ssize(session.runtime.workers()) == workers);
      CHECK(session.runtime.scheduler() == scheduler);
    }
  }
}

TEST_CASE("training's images are augmented as the run file says", "[session]") {
  const Overrides none =
      small + Overrides{"data.augment.crop_padding=0", "data.augment.flip=false"};
  const auto check = [&](const Overrides& keys, const data::Augmentation& augmentation) {
    CAPTURE(keys);
    const Experiment run = experiment(none + keys);
    CHECK((loaded(run) == expected(run, &augmentation)));
  };
  const Experiment plain = experiment(none);
  CHECK((loaded(plain) == expected(plain, nullptr)));
  check({"data.augment.crop_padding=2"}, {.crop_padding = 2});
  check({"data.augment.crop_padding=2", "data.augment.padding=reflect"},
        {.crop_padding = 2, .padding = data::Padding::reflect});
  check({"data.augment.flip=true"}, {.flip = true});
  check({"data.augment.flip=true", "data.augment.alternate_flip=true"},
        {.flip = true, .alternate_flip = true});
  check({"data.augment.random_resized_crop=true"}, {.random_resized_crop = true});
  check({"data.crop_size=10"}, {});
}

TEST_CASE("training steps as the run file's optimizer says", "[session]") {
  const auto check = [](const Overrides& keys, const OptimizerConfig& settings) {
    CAPTURE(keys);
    const Experiment run = experiment(small + keys);
    Session session(run);
    models::ModelValues before = run.initial_values();
    std::vector<std::vector<float>> gradients;
    for (std::size_t bucket = 0; bucket < before.parameters.size(); ++bucket) {
      auto& gradient = gradients.emplace_back(before.parameters[bucket].size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = static_cast<float>(i % 13) - 6;
        before.moments[bucket][i] = static_cast<float>(i % 7) - 3;
        if (settings.name == OptimizerName::adamw)
          before.moments[bucket][gradient.size() + i] = 1 + static_cast<float>(i % 3);
        before.parameters[bucket][i] += static_cast<float>(i % 5);  // biases begin at 0
      }
    }
    if (settings.name == OptimizerName::adamw) {
      for (auto& moments : before.moments) moments.back() = 2;  // steps
    }
    models::write(*session.current, before);
    const double scale = 0.25, rate = 0.5;
    for (std::size_t bucket = 0; bucket < gradients.size(); ++bucket) {
      const runtime::Tensor gradient(session.current->parameters[bucket].spec(), "gradient",
                                     runtime::Home::host);
      {
        const runtime::HostView view(gradient, runtime::Access::write);
        std::ranges::copy(gradients[bucket], view.as<float>().begin());
      }
      session.optimizer.step(*session.current, bucket, gradient, static_cast<float>(scale),
                             static_cast<float>(rate));
      session.runtime.wait_for_all();
    }
    const models::ModelValues after = models::read(*session.current);
    std::size_t wrong = 0;
    for (const models::Parameter& parameter : run.network.parameters) {
      const auto bucket = static_cast<std::size_t>(parameter.bucket);
      const double decay = parameter.decay || settings.decay_all ? settings.weight_decay : 0;
      for (std::int64_t k = 0; k < parameter.shape.elements(); ++k) {
        const std::size_t i = parameter.offset + static_cast<std::size_t>(k);
        double w = static_cast<double>(before.parameters[bucket][i]);
        double v = static_cast<double>(before.moments[bucket][i]);
        if (settings.name == OptimizerName::adamw) {
          const std::size_t second = before.parameters[bucket].size() + i;
          const auto mean = [](double beta, double value, double now) {
            return beta * value + (1 - beta) * now;
          };
          const double now = static_cast<double>(gradients[bucket][i]) * scale;
          const double m = mean(settings.momentum, v, now),
                       square =
                           mean(settings.beta2, static_cast<double>(before.moments[bucket][second]),
                                now * now);
          // It was the third step.
          const double root = std::sqrt(square / (1 - std::pow(settings.beta2, 3)));
          w -= rate *
               (m / (1 - std::pow(settings.momentum, 3)) / (root + settings.epsilon) + decay * w);
          if (!(std::abs(static_cast<double>(after.parameters[bucket][i]) - w) < 1e-5)) ++wrong;
          if (!(std::abs(static_cast<double>(after.moments[bucket][second]) - square) < 1e-5))
            ++wrong;
          continue;
        }
        const double g = static_cast<double>(gradients[bucket][i]) * scale + decay * w;
        const bool inside = settings.momentum_form == MomentumForm::lr_in_velocity;
        const double step = inside ? -rate * g : g;
        v = settings.momentum * v + step;
        const double change = settings.nesterov ? settings.momentum * v + step : v;
        w += inside ? change : -rate * change;
        // A few roundings of values below 10.
        if (!(std::abs(static_cast<double>(after.parameters[bucket][i]) - w) < 1e-5)) ++wrong;
        if (!(std::abs(static_cast<double>(after.moments[bucket][i]) - v) < 1e-5)) ++wrong;
      }
    }
    CHECK(wrong == 0);
  };
  const std::string optimizer = "training.optimizer.";
  OptimizerConfig settings;
  check({}, settings);
  settings.momentum = 0.5;
  check({optimizer + "momentum=0.5"}, settings);
  settings = {.nesterov = true};
  check({optimizer + "nesterov=true"}, settings);
  settings = {.momentum_form = MomentumForm::lr_in_velocity};
  check({optimizer + "momentum_form=lr_in_velocity"}, settings);
  settings = {.weight_decay = 0.25};
  check({optimizer + "weight_decay=0.25"}, settings);
  settings.decay_all = true;
  check({optimizer + "weight_decay=0.25", optimizer + "decay_all=true"}, settings);
  settings = {.name = OptimizerName::adamw, .weight_decay = 0.01};
  check({optimizer + "name=adamw"}, settings);
  settings = {.name = OptimizerName::adamw,
              .momentum = 0.5,
              .weight_decay = 0.25,
              .beta2 = 0.75,
              .epsilon = 0.125};
  check({optimizer + "name=adamw", optimizer + "momentum=0.5", optimizer + "weight_decay=0.25",
         optimizer + "beta2=0.75", optimizer + "epsilon=0.125"},
        settings);
}

TEST_CASE("running statistics are the workers' mean, or those of the first batches", "[session]") {
  const auto settled = [](const Experiment& run, Session& session,
                          const std::vector<runtime::Tensor>& parameters,
                          const std::vector<std::uint32_t>& order) {
    const runtime::Tensor result(runtime::vector_spec(run.network.running_statistics), "result",
                                 runtime::Home::host);
    session.settle_running_statistics(*session.current, parameters, order, result, 0);
    session.runtime.wait_for_all();
    const runtime::HostView view(result, runtime::Access::read);
    return std::vector<float>(view.as<float>().begin(), view.as<float>().end());
  };
  const Overrides model = small + Overrides{"model.name=resnet8", "training.workers=3"};
  SECTION("the workers' mean") {
    const Experiment run = experiment(model);
    Session session(run);
    models::ModelValues values = run.initial_values();
    REQUIRE(values.running.size() == 3);
    float next = 0;
    for (auto& of_worker : values.running) {
      for (float& value : of_worker) value = next += 0.125f;
    }
    models::write(*session.current, values);
    CHECK(settled(run, session, session.current->parameters, run.sampler.order(1)) ==
          models::average_running(values));
  }
  SECTION("those of batches of images as they are") {
    // More batches than a session has in flight.
    constexpr std::size_t batches = 5;
    const Experiment run = experiment(
        model + Overrides{"stpt.running_statistics=recalibrate", "stpt.recalibration_batches=5"});
    Session session(run);
    models::write(*session.current, run.initial_values());
    // Of another network than the one that trains, as the mean of a candidate's weights is.
    models::ModelState scored(run.network, run.team(), "scored");
    models::write(scored, models::ModelValues::initial(run.network, 3, 2));
    const std::vector<std::uint32_t> order = run.sampler.order(1);
    const std::vector<float> result = settled(run, session, scored.parameters, order);

    const int size = run.config.training.batch_per_worker;
    const auto images = static_cast<std::size_t>(size);
    const models::Program program(run.network, size, models::Mode::calibration, run.lowering());
    const models::Lane lane = program.make_lane();
    const data::Batch batch(size, run.network.input(), "batch");
    const runtime::Tensor of_batch(runtime::vector_spec(run.network.running_statistics),
                                   "of one batch", runtime::Home::host);
    std::vector<double> mean(result.size());
    for (std::size_t number = 0; number < batches; ++number) {
      {
        const runtime::HostView view(batch.images.front(), runtime::Access::write);
        data::load_images(*run.data.train, std::span(order).subspan(number * images, images),
                          run.network.input(), nullptr, run.normalization, 1, 1,
                          view.as<float>().data());
      }
      models::ProgramInputs inputs;
      inputs.images = batch.images;
      inputs.parameters = &scored.parameters;
      inputs.running = &of_batch;
      inputs.lane = &lane;
      program.submit(inputs, session.runtime.worker_for(0));
      session.runtime.wait_for_all();
      const runtime::HostView view(of_batch, runtime::Access::read);
      for (std::size_t i = 0; i < mean.size(); ++i)
        mean[i] += static_cast<double>(view.as<float>()[i]) / batches;
    }
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      // The same kernels on the same images; a sum of five in float.
      if (!(std::abs(static_cast<double>(result[i]) - mean[i]) <= 1e-6 * (1 + std::abs(mean[i]))))
        ++wrong;
    }
    CHECK(wrong == 0);
  }
}
