#include "stpt/evaluator.hpp"

#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "stpt/session.hpp"
#include "tests/stpt/training.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::SampleScore;

namespace {

/// Without augmentation, and with steps that change nothing, so that whoever scores images at any
/// time scores the initial model.
const Overrides still = small + Overrides{"training.learning_rate.initial=1e-12",
                                          "training.optimizer.weight_decay=0",
                                          "data.augment.crop_padding=0",
                                          "data.augment.flip=false",
                                          "stpt.candidates=[1]",
                                          "stpt.alpha=2",
                                          "training.epochs=1"};

/// The images' scores, each in a batch of its own.
std::vector<SampleScore> one_by_one(const Experiment& run, const models::ModelState& state,
                                    const data::Loader& loader,
                                    std::span<const std::uint32_t> images) {
  const models::Program program(run.network, 1, models::Mode::inference, run.lowering(),
                                loader.parts(1));
  const models::Lane lane = program.make_lane();
  const data::Batch batch(1, run.network.input(), "batch", loader.parts(1));
  const runtime::Tensor score(runtime::bytes_spec(sizeof(SampleScore)), "score",
                              runtime::Home::host);
  std::vector<SampleScore> scores;
  for (const std::uint32_t image : images) {
    runtime::Runtime& runtime = runtime::Runtime::current();
    loader.submit(batch, {&image, 1}, 0, runtime.worker_for(0));
    models::ProgramInputs inputs;
    inputs.images = batch.images;
    inputs.labels = &batch.labels;
    inputs.scores = &score;
    inputs.parameters = &state.parameters;
    inputs.lane = &lane;
    program.submit(inputs, runtime.worker_for(0));
    runtime.wait_for_all();
    const runtime::HostView view(score, runtime::Access::read);
    scores.push_back(view.as<SampleScore>()[0]);
  }
  return scores;
}

/// A batch's products may be summed in another order than a single image's.
bool close(double a, double b) { return std::abs(a - b) <= 1e-5 * (1 + std::abs(b)); }

bool close(std::span<const SampleScore> a, std::span<const SampleScore> b) {
  return std::ranges::equal(a, b, [](const SampleScore& x, const SampleScore& y) {
    return x.rank == y.rank && close(x.loss, y.loss);
  });
}

}  // namespace

TEST_CASE("every image is scored once, whatever the batches and parts", "[evaluator]") {
  const Experiment run = experiment(still);
  Session session(run);
  models::write(*session.current, run.initial_values());
  models::ModelState other(run.network, run.team(), "other");
  models::write(other, models::ModelValues::initial(run.network, run.config.training.workers, 7));
  std::vector<std::uint32_t> images = run.sampler.order(1);
  images.resize(37);
  const auto expected = one_by_one(run, *session.current, session.plain_train_loader, images);
  const auto of_other = one_by_one(run, other, session.plain_train_loader, images);
  REQUIRE_FALSE(close(expected, of_other));

  const std::vector<EvaluatedModel> models = {{&session.current->parameters, nullptr},
                                              {&other.parameters, nullptr}};
  for (const int batch : {1, 5, 8, 36, 37, 100}) {
    CAPTURE(batch);
    Evaluator evaluator(run.network, models::Mode::inference, run.lowering(),
                        session.plain_train_loader, images, batch);
    for (const int repetition : {1, 2}) {
      CAPTURE(repetition);
      const auto whole = evaluator.evaluate(models);
      REQUIRE(whole.size() == 2);
      CHECK(close(whole[0].samples, expected));
      CHECK(close(whole[1].samples, of_other));
    }
    std::vector<SampleScore> joined;
    for (int part = 0; part < 3; ++part) {
      const auto samples = evaluator.evaluate(models, part, 3)[0].samples;
      CHECK(samples.size() == evaluator.images(part, 3));
      joined.insert(joined.end(), samples.begin(), samples.end());
    }
    CHECK(close(joined, expected));
  }
}

TEST_CASE("a run's figures are those of the images they are said to be of", "[evaluator]") {
  struct Figures {
    double loss = 0, top1 = 0;
    explicit Figures(const std::vector<SampleScore>& scores) {
      for (const SampleScore& score : scores) {
        loss += score.loss / static_cast<double>(scores.size());
        top1 += (score.rank == 0 ? 1.0 : 0.0) / static_cast<double>(scores.size());
      }
    }
  };
  const bool hold_out = GENERATE(true, false);
  const Overrides keys =
      still + Overrides{hold_out ? "stpt.score=hold_out" : "stpt.score=validation"};
  const EpochRecord epoch = train(keys).record.epochs.at(0);

  const Experiment run = experiment(keys);
  Session session(run);
  models::write(*session.current, run.initial_values());
  const auto figures_of = [&](const data::Loader& loader, std::span<const std::uint32_t> images) {
    return Figures(one_by_one(run, *session.current, loader, images));
  };
  std::vector<std::uint32_t> all_tests(run.data.test->size());
  std::iota(all_tests.begin(), all_tests.end(), 0U);
  const Figures tests = figures_of(session.test_loader, all_tests);
  CHECK(close(epoch.test_loss, tests.loss));
  CHECK(close(epoch.test_top1, tests.top1));

  const Figures scored =
      hold_out ? figures_of(session.plain_train_loader, run.split.hold_out) : tests;
  CHECK(close(epoch.candidates.at(0).score_loss, scored.loss));
  CHECK(close(epoch.candidates.at(0).score_top1, scored.top1));

  // Main-train goes on where Pre-train has ended.
  const std::vector<std::uint32_t> order = run.sampler.order(1);
  const auto batch = static_cast<std::size_t>(run.global_batch());
  const auto iterations = static_cast<std::size_t>(run.iterations_per_epoch);
  const Figures trained = figures_of(session.plain_train_loader,
                                     std::span(order).subspan(2 * batch, (iterations - 2) * batch));
  CHECK(close(epoch.train_loss, trained.loss));
  CHECK(close(epoch.train_top1, trained.top1));
}
