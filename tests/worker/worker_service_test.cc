// The control stream over real gRPC, with a coordinator that is a few lines.

#include "worker/worker_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "base/log.h"
#include "tests/worker/gang_driver.h"
#include "trireme/v1/worker.grpc.pb.h"

namespace trireme {
namespace {

const std::filesystem::path kModels =
    std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models";
const std::filesystem::path kModel = kModels / "qwen2";

using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

class FakeCoordinator final : public v1::WorkerControl::Service {
 public:
  using ServeRank = std::function<grpc::Status(Stream&, uint32_t rank)>;

  // `serve` is called for every stream, and says how it ends.
  explicit FakeCoordinator(ServeRank serve) : serve_(std::move(serve)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  explicit FakeCoordinator(const std::function<grpc::Status(Stream&)>& serve)
      : FakeCoordinator([serve](Stream& stream, uint32_t) { return serve(stream); }) {}
  ~FakeCoordinator() override { server_->Shutdown(); }

  // Waits for a pair of ranks, and leaves out the Welcome of one's first streams.
  void ForgetToWelcome(uint32_t rank, size_t streams) { unwelcome_ = {rank, streams}; }

  // As a coordinator offers it.
  void OfferShortLeases() { lease_ = std::chrono::milliseconds(3'600); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  const v1::Register& registration(size_t stream = 0) const { return registrations_.at(stream); }

  grpc::Status Connect(grpc::ServerContext*, Stream* stream) override {
    v1::WorkerMessage message;
    size_t streams = 0;  // of this rank
    if (stream->Read(&message)) {
      std::unique_lock lock(mutex_);
      registrations_.push_back(message.register_());
      streams = StreamsOf(message.register_().info().rank());
      registered_.notify_all();
      registered_.wait(
          lock, [&] { return !unwelcome_.has_value() || registrations_.size() >= 2 * streams; });
    }
    v1::CoordinatorMessage registered;
    registered.mutable_registered()->set_lease_ms(static_cast<uint32_t>(lease_.count()));
    stream->Write(registered);
    v1::CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_epoch(1);
    const uint32_t rank = message.register_().info().rank();
    if (!unwelcome_.has_value() || unwelcome_->rank != rank || streams > unwelcome_->streams) {
      stream->Write(welcome);
    }
    return serve_(*stream, rank);
  }

 private:
  struct Unwelcome {
    uint32_t rank;
    size_t streams;
  };

  size_t StreamsOf(uint32_t rank) const {
    return static_cast<size_t>(
        std::count_if(registrations_.begin(), registrations_.end(),
                      [rank](const auto& other) { return other.info().rank() == rank; }));
  }

  const ServeRank serve_;
  std::optional<Unwelcome> unwelcome_;
  std::chrono::milliseconds lease_{600'000};
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable registered_;
  std::vector<v1::Register> registrations_;  // of the streams, in their order
  std::unique_ptr<grpc::Server> server_;
};

void WritePlan(Stream& stream, const v1::StepPlan& plan) {
  v1::CoordinatorMessage message;
  *message.mutable_plan() = plan;
  stream.Write(message);
}

grpc::Status WriteShutdown(Stream& stream) {
  v1::CoordinatorMessage message;
  message.mutable_shutdown()->set_reason("done");
  stream.Write(message);
  return grpc::Status::OK;
}

// Sends all plans at once, and ends the gang when their results are there.
grpc::Status ComputeAll(Stream& stream, const std::vector<v1::StepPlan>& plans,
                        std::vector<v1::StepResult>& results) {
  for (const v1::StepPlan& plan : plans) WritePlan(stream, plan);
  v1::WorkerMessage message;
  while (results.size() < plans.size() && stream.Read(&message)) {
    if (message.has_result()) results.push_back(message.result());
  }
  return WriteShutdown(stream);
}

// A rank that serves `coordinator` to the end. "cuda" is emulated, and computes ahead.
absl::Status ServeRank(const FakeCoordinator& coordinator, RankHealth& health,
                       const std::string& device_name, const std::filesystem::path& model,
                       Communicator& world) {
  const Device device = *MakeDevice({.name = device_name});
  Ops& ops = *device.ops;
  const auto control = *world.Split(0, world.rank());
  RunnerOptions options;
  options.model_dir = model;
  options.layout.tp = world.size();
  options.sampler = device.sampler;
  options.kv_memory.bytes = 1 << 24;
  options.swap_bytes_max = 1 << 20;
  options.max_num_batched_tokens = 32;
  const auto runner = *ModelRunner::Load(options, &ops, &world);
  EXPECT_EQ(runner->plans_ahead(), device_name == "cpu" ? 0u : 1u);
  return ServeCoordinator({.coordinator = coordinator.address(), .ranks = control.get()},
                          MakeRegister(options, *runner, ops, world, "gang"), *runner, health);
}

absl::Status Serve(const FakeCoordinator& coordinator, RankHealth& health,
                   const std::string& device_name = "cpu",
                   const std::filesystem::path& model = kModel) {
  const auto world = std::move(MakeLoopbackCommunicators(1).front());
  return ServeRank(coordinator, health, device_name, model, *world);
}

absl::Status Serve(const FakeCoordinator& coordinator, const std::string& device_name = "cpu") {
  RankHealth health{std::chrono::seconds(60)};
  return Serve(coordinator, health, device_name);
}

class WorkerServiceOn : public testing::TestWithParam<std::string> {
 protected:
  bool on_cpu() const { return GetParam() == "cpu"; }
  // The plans of one request.
  std::vector<v1::StepPlan> Plans(int64_t steps) const {
    return MakePlans(options_,
                     {{.prompt = {1, 2, 3}, .steps = steps, .sampling = GreedySampling()}});
  }
  absl::StatusOr<GangOutput> Want(const std::vector<v1::StepPlan>& plans) const {
    DriverOptions options = options_;
    if (!on_cpu()) options.make_device = [](int) { return MakeDevice({.name = "cuda"}); };
    return RunPlans(options, plans);
  }

 private:
  const DriverOptions options_{.model_dir = kModel, .layout = {}, .max_batched_tokens = 32};
};
INSTANTIATE_TEST_SUITE_P(Devices, WorkerServiceOn, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return info.param; });

TEST_P(WorkerServiceOn, ComputesPlansThatWaitOneAfterAnother) {
  const std::vector<v1::StepPlan> plans = Plans(on_cpu() ? 300 : 20);
  std::vector<v1::StepResult> results;
  FakeCoordinator coordinator([&](Stream& stream) { return ComputeAll(stream, plans, results); });
  const absl::Status status = Serve(coordinator, GetParam());
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(coordinator.registration().kv_cache_dtype(), "f32");
  EXPECT_GT(coordinator.registration().swap_blocks(), 0u);
  const auto want = Want(plans);
  ASSERT_TRUE(want.ok()) << want.status();
  ASSERT_EQ(results.size(), plans.size());
  std::vector<double> idle_ms;
  for (size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(results[i].step(), i + 1);
    ASSERT_EQ(results[i].tokens_size(), 1);
    EXPECT_EQ(results[i].tokens(0).token_id(), want->results[i].tokens(0).token_id());
    EXPECT_GT(results[i].step_ms(), 0);
    idle_ms.push_back(results[i].idle_ms());
  }
  std::sort(idle_ms.begin(), idle_ms.end());
  const double median = idle_ms[idle_ms.size() / 2];
  std::printf("idle between steps: median %.0f us, 90 %% below %.0f us\n", 1e3 * median,
              1e3 * idle_ms[idle_ms.size() * 9 / 10]);
  if (on_cpu()) {
    EXPECT_GT(idle_ms.front(), 0);
  }
  EXPECT_LT(median, 20);  // tens of microseconds on a machine that is not busy
}

// The host takes part in a mixture's prompts: what was under way before one is answered first.
TEST(WorkerService, AMixturesPromptsKeepNoResultBack) {
  const DriverOptions options{
      .model_dir = kModels / "mixtral", .layout = {}, .max_batched_tokens = 32};
  const std::vector<v1::StepPlan> plans = MakePlans(
      options, {{.prompt = {1, 2, 3}, .steps = 6, .sampling = GreedySampling()},
                {.prompt = {4, 5}, .steps = 2, .start_after = 3, .sampling = GreedySampling()}});
  std::vector<v1::StepResult> results;
  FakeCoordinator coordinator([&](Stream& stream) { return ComputeAll(stream, plans, results); });
  RankHealth health{std::chrono::seconds(60)};
  const absl::Status status = Serve(coordinator, health, "cuda", kModels / "mixtral");
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(results.size(), plans.size());
  ASSERT_EQ(plans[3].new_sequences_size(), 1);
  EXPECT_GT(results[3].idle_ms(), 0);  // 0: it was launched behind another
}

// Behind a good one, whose result is not lost.
TEST_P(WorkerServiceOn, ABadPlanIsAFailureWithItsReason) {
  v1::WorkerMessage answer;
  std::vector<uint64_t> results;
  FakeCoordinator coordinator([&](Stream& stream) {
    v1::StepPlan bad;
    bad.set_epoch(1);
    bad.set_step(2);
    bad.add_scheduled()->set_id(9);
    WritePlan(stream, Plans(1).front());
    WritePlan(stream, bad);
    while (stream.Read(&answer) && !answer.has_failure()) {
      if (answer.has_result()) results.push_back(answer.result().step());
    }
    return grpc::Status::OK;
  });
  EXPECT_TRUE(absl::IsInternal(Serve(coordinator, GetParam())));
  EXPECT_EQ(answer.failure().message(), "step plan: sequence 9: is not known");
  EXPECT_EQ(results, std::vector<uint64_t>({1}));
}

TEST(WorkerService, TellsItsHealth) {
  RankHealth health{std::chrono::seconds(60)};
  const auto ready = [&] { return health.Ready(RankHealth::Clock::now()); };
  FakeCoordinator coordinator([&](Stream& stream) {
    v1::CoordinatorMessage test;
    test.mutable_self_test();
    stream.Write(test);
    while (!ready()) std::this_thread::yield();
    return WriteShutdown(stream);
  });
  EXPECT_FALSE(ready());
  EXPECT_TRUE(Serve(coordinator, health).ok());
  EXPECT_FALSE(ready());
}

TEST(WorkerService, TheEndOfTheStreamIsUnavailable) {
  FakeCoordinator coordinator([](Stream&) { return grpc::Status::OK; });
  EXPECT_TRUE(absl::IsUnavailable(Serve(coordinator)));
}

TEST(WorkerService, ARefusalIsTheEnd) {
  FakeCoordinator coordinator(
      [](Stream&) { return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "no such model"); });
  const absl::Status status = Serve(coordinator);
  EXPECT_NE(status.message().find("no such model"), absl::string_view::npos) << status;
}

// The next coordinator begins with the epoch, the steps and the ids of the one before.
TEST_P(WorkerServiceOn, ServesTheNextCoordinatorAsAGangThatKnowsNoRequest) {
  const std::vector<v1::StepPlan> plans = Plans(on_cpu() ? 20 : 6);
  std::vector<std::vector<int32_t>> answers;
  FakeCoordinator coordinator([&](Stream& stream) {
    for (const v1::StepPlan& plan : plans) WritePlan(stream, plan);
    answers.emplace_back();
    v1::WorkerMessage message;
    while (answers.back().size() < plans.size() && stream.Read(&message)) {
      if (message.has_result()) answers.back().push_back(message.result().tokens(0).token_id());
    }
    if (answers.size() == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
    return WriteShutdown(stream);
  });
  const absl::Status status = Serve(coordinator, GetParam());
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0], answers[1]);
  EXPECT_EQ(coordinator.registration(0).gang_id(), "gang");
  EXPECT_EQ(coordinator.registration(1).gang_id(), "gang-1");
}

// Two ranks that serve `coordinator` to the end.
std::vector<absl::Status> ServeTwo(const FakeCoordinator& coordinator) {
  std::vector<absl::Status> served(2);
  std::vector<std::thread> ranks;
  for (auto& world : MakeLoopbackCommunicators(2)) {
    ranks.emplace_back([&, own = std::move(world)] {
      RankHealth health{std::chrono::seconds(60)};
      served[static_cast<size_t>(own->rank())] =
          ServeRank(coordinator, health, "cpu", kModel, *own);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return served;
}

TEST(WorkerService, ACoordinatorMayGoBeforeItHasWelcomedAllRanks) {
  for (const uint32_t unwelcome : {0, 1}) {
    const DriverOptions options{.model_dir = kModel, .layout = {.tp = 2}, .max_batched_tokens = 32};
    const std::vector<v1::StepPlan> plans =
        MakePlans(options, {{.prompt = {1, 2, 3}, .steps = 4, .sampling = GreedySampling()}});
    std::array<std::atomic<int>, 2> streams{};
    std::vector<v1::StepResult> results;
    FakeCoordinator coordinator([&](Stream& stream, uint32_t rank) {
      if (++streams.at(rank) <= 2) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));  // for what was written
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
      }
      if (rank == 0) return ComputeAll(stream, plans, results);
      for (const v1::StepPlan& plan : plans) WritePlan(stream, plan);
      return WriteShutdown(stream);
    });
    coordinator.ForgetToWelcome(unwelcome, 2);
    for (const absl::Status& status : ServeTwo(coordinator)) EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(results.size(), plans.size());
    // It had not served, so it is the same gang.
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(coordinator.registration(i).gang_id(), "gang");
  }
}

// As one does that is killed while it sends them.
TEST(WorkerService, ACoordinatorMayGoWithPlansThatSomeRanksHaveNotGot) {
  const DriverOptions options{.model_dir = kModel, .layout = {.tp = 2}, .max_batched_tokens = 32};
  const std::vector<v1::StepPlan> plans =
      MakePlans(options, {{.prompt = {1, 2, 3}, .steps = 8, .sampling = GreedySampling()}});
  std::atomic<int> streams = 0;
  std::vector<int32_t> answers;  // rank 0's, to the second coordinator
  FakeCoordinator coordinator([&](Stream& stream, uint32_t rank) {
    if (++streams > 2) {
      std::vector<v1::StepResult> results;
      if (rank == 0) {
        const grpc::Status status = ComputeAll(stream, plans, results);
        for (const v1::StepResult& result : results) answers.push_back(result.tokens(0).token_id());
        return status;
      }
      for (const v1::StepPlan& plan : plans) WritePlan(stream, plan);
      return WriteShutdown(stream);
    }
    const size_t got = plans.size() - (rank == 0 ? 0 : 2);
    for (size_t i = 0; i < got; ++i) WritePlan(stream, plans[i]);
    v1::CoordinatorMessage test;
    test.mutable_self_test();
    if (rank == 0) stream.Write(test);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
  });
  for (const absl::Status& status : ServeTwo(coordinator)) EXPECT_TRUE(status.ok()) << status;
  const auto want = RunPlans(options, plans);
  ASSERT_TRUE(want.ok()) << want.status();
  ASSERT_EQ(answers.size(), plans.size());
  for (size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(answers[i], want->results[i].tokens(0).token_id());
  }
}

// As one does that is stopped, or whose host is gone: until the rank cuts the stream.
grpc::Status FallSilent(Stream& stream) {
  v1::WorkerMessage message;
  for (int answered = 0; stream.Read(&message);) {
    if (!message.has_progress() || ++answered > 2) continue;
    v1::CoordinatorMessage answer;
    answer.mutable_heartbeat()->set_sent_ns(message.progress().sent_ns());
    stream.Write(answer);
  }
  return grpc::Status::OK;
}

TEST(WorkerService, AnIdleRankOutlivesASilentCoordinator) {
  std::atomic<int> streams = 0;
  FakeCoordinator coordinator(
      [&](Stream& stream) { return ++streams == 1 ? FallSilent(stream) : WriteShutdown(stream); });
  coordinator.OfferShortLeases();
  const absl::Status status = Serve(coordinator);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(coordinator.registration(1).gang_id(), "gang-1");
}

// Its rank 0 waits for rank 1, which has no plan.
TEST(WorkerServiceDeathTest, ARankThatComputesEndsWithASilentCoordinatorAndSaysSo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const DriverOptions options{.model_dir = kModel, .layout = {.tp = 2}, .max_batched_tokens = 32};
  const std::vector<v1::StepPlan> plans =
      MakePlans(options, {{.prompt = {1, 2, 3}, .steps = 1, .sampling = GreedySampling()}});
  FakeCoordinator coordinator([&](Stream& stream, uint32_t rank) {
    if (rank == 0) WritePlan(stream, plans.front());
    return FallSilent(stream);
  });
  coordinator.OfferShortLeases();
  const auto serve = [&] {
    InitLog("ranks", LogLevel::kInfo);
    ServeTwo(coordinator);
  };
  EXPECT_EXIT(serve(), testing::ExitedWithCode(1),
              "the coordinator is silent: this rank ends, as its place may be taken");
}

}  // namespace
}  // namespace trireme
