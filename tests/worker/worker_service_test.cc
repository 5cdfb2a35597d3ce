// The control stream over real gRPC, with a coordinator that is a few lines.

#include "worker/worker_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "tests/worker/gang_driver.h"
#include "trireme/v1/worker.grpc.pb.h"

namespace trireme {
namespace {

const std::filesystem::path kModel =
    std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models/qwen2";

using Stream = grpc::ServerReaderWriter<v1::CoordinatorMessage, v1::WorkerMessage>;

class FakeCoordinator final : public v1::WorkerControl::Service {
 public:
  explicit FakeCoordinator(std::function<void(Stream&)> serve) : serve_(std::move(serve)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCoordinator() override { server_->Shutdown(); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  const v1::Register& registration() const { return registration_; }

  grpc::Status Connect(grpc::ServerContext*, Stream* stream) override {
    v1::WorkerMessage message;
    if (stream->Read(&message)) registration_ = message.register_();
    v1::CoordinatorMessage registered;
    registered.mutable_registered()->set_lease_ms(600'000);
    stream->Write(registered);
    v1::CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_epoch(1);
    stream->Write(welcome);
    serve_(*stream);
    return grpc::Status::OK;
  }

 private:
  const std::function<void(Stream&)> serve_;
  int port_ = 0;
  v1::Register registration_;
  std::unique_ptr<grpc::Server> server_;
};

void WritePlan(Stream& stream, const v1::StepPlan& plan) {
  v1::CoordinatorMessage message;
  *message.mutable_plan() = plan;
  stream.Write(message);
}

// A gang of one that serves `coordinator` to the end.
absl::Status Serve(const FakeCoordinator& coordinator, RankHealth& health) {
  const auto world = std::move(MakeLoopbackCommunicators(1).front());
  const auto ops = *MakeCpuOps(1);
  RunnerOptions options;
  options.model_dir = kModel;
  options.kv_memory.bytes = 1 << 24;
  options.swap_bytes_max = 1 << 20;
  const auto runner = *ModelRunner::Load(options, ops.get(), world.get());
  return ServeCoordinator({.coordinator = coordinator.address()},
                          MakeRegister(options, *runner, *ops, *world, "gang"), *runner, health);
}

absl::Status Serve(const FakeCoordinator& coordinator) {
  RankHealth health{std::chrono::seconds(60)};
  return Serve(coordinator, health);
}

TEST(WorkerService, ComputesPlansThatWaitOneAfterAnother) {
  const DriverOptions options{.model_dir = kModel, .layout = {}};
  const std::vector<v1::StepPlan> plans =
      MakePlans(options, {{.prompt = {1, 2, 3}, .steps = 300, .sampling = GreedySampling()}});
  std::vector<v1::StepResult> results;
  FakeCoordinator coordinator([&](Stream& stream) {
    for (const v1::StepPlan& plan : plans) WritePlan(stream, plan);
    v1::WorkerMessage message;
    while (results.size() < plans.size() && stream.Read(&message)) {
      if (message.has_result()) results.push_back(message.result());
    }
    v1::CoordinatorMessage shutdown;
    shutdown.mutable_shutdown()->set_reason("done");
    stream.Write(shutdown);
  });
  const absl::Status status = Serve(coordinator);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(coordinator.registration().kv_cache_dtype(), "f32");
  EXPECT_GT(coordinator.registration().swap_blocks(), 0u);
  const auto want = RunPlans(options, plans);
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
  EXPECT_GT(idle_ms.front(), 0);
  EXPECT_LT(median, 20);  // tens of microseconds on a machine that is not busy
}

TEST(WorkerService, ABadPlanIsAFailureWithItsReason) {
  v1::WorkerMessage answer;
  FakeCoordinator coordinator([&](Stream& stream) {
    v1::StepPlan plan;
    plan.add_scheduled()->set_id(9);
    WritePlan(stream, plan);
    while (stream.Read(&answer) && !answer.has_failure()) {
    }
  });
  EXPECT_TRUE(absl::IsInternal(Serve(coordinator)));
  EXPECT_EQ(answer.failure().message(), "step plan: sequence 9: is not known");
}

TEST(WorkerService, TellsItsHealth) {
  RankHealth health{std::chrono::seconds(60)};
  const auto ready = [&] { return health.Ready(RankHealth::Clock::now()); };
  FakeCoordinator coordinator([&](Stream& stream) {
    while (!ready()) std::this_thread::yield();
    v1::CoordinatorMessage shutdown;
    shutdown.mutable_shutdown()->set_reason("done");
    stream.Write(shutdown);
    v1::WorkerMessage message;
    while (stream.Read(&message)) {
    }
  });
  EXPECT_FALSE(ready());
  EXPECT_TRUE(Serve(coordinator, health).ok());
  EXPECT_FALSE(ready());
}

TEST(WorkerService, TheEndOfTheStreamIsUnavailable) {
  FakeCoordinator coordinator([](Stream&) {});
  EXPECT_TRUE(absl::IsUnavailable(Serve(coordinator)));
}

}  // namespace
}  // namespace trireme
