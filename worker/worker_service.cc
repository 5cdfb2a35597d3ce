#include "worker/worker_service.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/network_devices.h"
#include "trireme/v1/worker.grpc.pb.h"
#include "worker/control_stream.h"
#include "worker/coordinator_channel.h"
#include "worker/serving_barrier.h"
#include "worker/start_lease.h"

namespace trireme {
namespace {

// After a coordinator, or what stands before it, that took the rank in and went at once.
constexpr std::chrono::milliseconds kRejoinPause{500};

// The end of a stream as the worker sees it.
absl::Status StreamEnded(const std::string& coordinator, const grpc::Status& status) {
  const std::string why = status.ok() ? "it closed the control stream" : status.error_message();
  return absl::UnavailableError(absl::StrCat("coordinator ", coordinator, ": ", why));
}

absl::Status SendFailure(ControlStream& stream, const absl::Status& error) {
  v1::WorkerMessage message;
  message.mutable_failure()->set_message(std::string(error.message()));
  LogError(std::string(error.message()));
  stream.SendLast(message);
  // Leaving now would cancel the call, and the message with it: the coordinator ends it when it has
  // read why.
  while (stream.Next().has_value()) {
  }
  return error;
}

// Why a stream is over without an error of this rank's.
struct StreamEnd {
  bool coordinator_gone = false;  // else it has told the rank to end
  absl::Status why = {};
};

// A rank's service to its coordinator, over all the streams that takes.
class Service {
 public:
  Service(const ControlOptions& options, const v1::Register& registration, ModelRunner& runner,
          RankHealth& health)
      : options_(options),
        gang_id_(registration.gang_id()),
        registration_(registration),
        runner_(runner),
        health_(health),
        barrier_(options.ranks) {}

  absl::Status Run();

 private:
  using Clock = std::chrono::steady_clock;

  absl::StatusOr<StreamEnd> ServeStream(Clock::time_point connect_until);
  absl::StatusOr<StreamEnd> RunStream(ControlStream& stream);
  absl::Status Launch(const v1::StepPlan& plan, ControlStream& stream);
  absl::StatusOr<bool> AnswerOrPlan(ControlStream& stream);
  absl::Status AnswerAll(ControlStream& stream);
  absl::Status Answer(ControlStream& stream);
  absl::Status SelfTest(ControlStream& stream);
  absl::Status Stay();

  const ControlOptions& options_;
  const std::string gang_id_;
  v1::Register registration_;
  ModelRunner& runner_;
  RankHealth& health_;
  ServingBarrier barrier_;
  std::unique_ptr<StartLease> waits_;  // for a coordinator
  int times_served_ = 0;
  bool serving_ = false;
  std::atomic<bool> stopping_ = false;                // by SIGTERM
  std::optional<Clock::time_point> welcome_until_{};  // once the coordinator was lost
  Clock::time_point step_end_ = Clock::now();
  std::deque<double> idle_ms_;  // before each of the plans under way
};

absl::Status Service::Run() {
  auto connect_until = Clock::now() + std::chrono::milliseconds(options_.connect_timeout_ms);
  while (true) {
    ASSIGN_OR_RETURN(const StreamEnd end, ServeStream(connect_until));
    if (!end.coordinator_gone) {
      // Ranks that were not told to serve do not come.
      if (barrier_.entered() && !barrier_.PassedBy(Clock::now())) std::_Exit(0);
      return absl::OkStatus();
    }
    if (options_.reconnect_timeout_s == 0 || stopping_) return end.why;
    LogWarning(absl::StrCat(end.why.message(), "; the weights stay, and wait for it for ",
                            options_.reconnect_timeout_s, " s (--reconnect-timeout-s)"));
    if (serving_ || !welcome_until_.has_value()) {
      welcome_until_ = Clock::now() + std::chrono::seconds(options_.reconnect_timeout_s);
    } else {
      std::this_thread::sleep_for(kRejoinPause);
    }
    connect_until = *welcome_until_;
    serving_ = false;
  }
}

absl::StatusOr<StreamEnd> Service::ServeStream(Clock::time_point connect_until) {
  using std::chrono::milliseconds;
  const auto left = std::chrono::duration_cast<milliseconds>(connect_until - Clock::now());
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   ConnectCoordinator(options_.coordinator, std::max(left, milliseconds(1))));
  const auto stub = v1::WorkerControl::NewStub(channel);
  ControlStream stream(*stub, registration_, options_.watch, options_.ranks, barrier_);
  if (options_.stop_signal != nullptr) {
    options_.stop_signal->OnStop([&] {
      stopping_ = true;
      health_.Left();
      stream.Drain();
    });
  }
  absl::StatusOr<StreamEnd> end = RunStream(stream);
  if (options_.stop_signal != nullptr) options_.stop_signal->OnStop(nullptr);
  health_.Left();
  const bool stays = end.ok() && end->coordinator_gone && serving_ && !stopping_ &&
                     options_.reconnect_timeout_s > 0;
  // While the stream still has its lease, which ends ranks that wait for each other in vain.
  if (stays) RETURN_IF_ERROR(Stay());
  if (end.ok() && end->coordinator_gone) {
    ASSIGN_OR_RETURN(waits_, StartLease::Take());
  }
  return end;
}

// Plans wait in the stream while a step computes, but for those that a device takes ahead. Those
// that have come before its end are computed also then: the other ranks have them, and may wait for
// this one.
absl::StatusOr<StreamEnd> Service::RunStream(ControlStream& stream) {
  while (true) {
    if (runner_.under_way() > 0) {
      ASSIGN_OR_RETURN(const bool answered, AnswerOrPlan(stream));
      if (answered) continue;
    }
    const auto message = stream.Next(serving_ ? std::nullopt : welcome_until_);
    if (!message.has_value() || !message->has_plan()) RETURN_IF_ERROR(AnswerAll(stream));
    if (!message.has_value()) break;
    if (message->has_registered()) {
      RETURN_IF_ERROR(
          stream.KeepLease(std::chrono::milliseconds(message->registered().lease_ms())));
      waits_.reset();
    } else if (message->has_welcome()) {
      LogInfo(absl::StrCat("serving, epoch ", message->welcome().epoch()));
      serving_ = true;
      health_.Joined();
      if (times_served_ == 0) options_.on_ready();
    } else if (message->has_shutdown()) {
      LogInfo(absl::StrCat("stopping: ", message->shutdown().reason()));
      health_.Left();
      stream.SendsDone();
      RETURN_IF_ERROR(runner_.Finish());
      return StreamEnd{};
    } else if (message->has_plan()) {
      RETURN_IF_ERROR(Launch(message->plan(), stream));
    } else if (message->has_self_test()) {
      RETURN_IF_ERROR(SelfTest(stream));
    }
  }
  if (!serving_ && welcome_until_.has_value() && Clock::now() >= *welcome_until_) {
    return absl::DeadlineExceededError(absl::StrCat(
        "coordinator ", options_.coordinator, " is back, but not all ranks of the gang joined it ",
        "within ", options_.reconnect_timeout_s, " s (--reconnect-timeout-s)"));
  }
  const grpc::Status status = stream.Finish();
  const absl::Status why = StreamEnded(options_.coordinator, status);
  // CANCELLED: by this rank, which heard nothing, or by a coordinator that had no time for more.
  const bool gone = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                    status.error_code() == grpc::StatusCode::CANCELLED;
  if (!gone) return why;
  return StreamEnd{.coordinator_gone = true, .why = why};
}

absl::Status Service::Launch(const v1::StepPlan& plan, ControlStream& stream) {
  if (runner_.LaunchWaits(plan)) RETURN_IF_ERROR(AnswerAll(stream));
  const std::chrono::duration<double, std::milli> idle = Clock::now() - step_end_;
  idle_ms_.push_back(runner_.under_way() == 0 ? idle.count() : 0);
  stream.BeginStep(plan.step());
  const absl::Status launched = runner_.Launch(plan);
  if (launched.ok()) return launched;
  // The steps before it have not failed.
  while (runner_.under_way() > 0 && Answer(stream).ok()) {
  }
  return SendFailure(stream, launched);
}

// Answers the oldest plan under way: true. Or false, if another one can be launched and a message
// comes first.
absl::StatusOr<bool> Service::AnswerOrPlan(ControlStream& stream) {
  std::function<bool()> plan_is_there;
  if (runner_.under_way() <= runner_.plans_ahead()) {
    plan_is_there = [&stream] { return stream.HasNext(); };
  }
  const absl::StatusOr<bool> done = runner_.WaitForResult(plan_is_there);
  if (done.ok() && !*done) return false;
  const absl::Status answered = done.ok() ? Answer(stream) : done.status();
  if (!answered.ok()) return SendFailure(stream, answered);
  return true;
}

absl::Status Service::AnswerAll(ControlStream& stream) {
  while (runner_.under_way() > 0) {
    const absl::Status answered = Answer(stream);
    if (!answered.ok()) return SendFailure(stream, answered);
  }
  return absl::OkStatus();
}

absl::Status Service::Answer(ControlStream& stream) {
  ASSIGN_OR_RETURN(v1::StepResult result, runner_.Collect());
  step_end_ = Clock::now();
  stream.EndStep(result.step());
  health_.GetsOn();
  result.set_idle_ms(idle_ms_.front());
  idle_ms_.pop_front();
  if (!runner_.is_responder()) return absl::OkStatus();
  v1::WorkerMessage answer;
  *answer.mutable_result() = std::move(result);
  stream.Send(answer);  // if it fails, the stream has ended
  return absl::OkStatus();
}

absl::Status Service::SelfTest(ControlStream& stream) {
  stream.BeginSelfTest();
  const absl::Status status = runner_.SelfTest();
  if (!status.ok()) return SendFailure(stream, status);
  stream.EndSelfTest();
  health_.GetsOn();
  return absl::OkStatus();
}

// A coordinator that was only cut off may not know yet that the old gang is gone, so this is
// another one. All ranks have been in the same gangs, and count alike.
absl::Status Service::Stay() {
  RETURN_IF_ERROR(runner_.Reset());
  barrier_.Leave();
  ++times_served_;
  registration_.set_gang_id(absl::StrCat(gang_id_, "-", times_served_));
  return absl::OkStatus();
}

}  // namespace

v1::Register MakeRegister(const RunnerOptions& options, const ModelRunner& runner, const Ops& ops,
                          const Communicator& world, const std::string& gang_id) {
  const ModelConfig& config = runner.config();
  const RankCoord coord = CoordOf(options.layout, world.rank());
  v1::Register registration;
  registration.set_gang_id(gang_id);
  registration.set_world_size(static_cast<uint32_t>(world.size()));
  registration.set_tensor_parallel_size(static_cast<uint32_t>(options.layout.tp));
  registration.set_pipeline_parallel_size(static_cast<uint32_t>(options.layout.pp));
  registration.set_communicator(std::string(world.name()));
  registration.set_kv_block_size(static_cast<uint32_t>(runner.kv_cache().block_size()));
  registration.set_kv_blocks(static_cast<uint32_t>(runner.pool_blocks()));
  registration.set_swap_blocks(static_cast<uint32_t>(runner.swap_blocks()));
  registration.set_kv_cache_dtype(std::string(KvDTypeName(options.kv_dtype)));
  registration.set_max_model_len(static_cast<uint32_t>(runner.max_model_len()));
  registration.set_max_num_batched_tokens(static_cast<uint32_t>(options.max_num_batched_tokens));
  registration.set_device_model(std::string(ops.model()));

  v1::ModelIdentity& model = *registration.mutable_model();
  model.set_architecture(config.architecture);
  model.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  model.set_hidden_size(static_cast<uint32_t>(config.hidden_size));
  model.set_num_layers(static_cast<uint32_t>(config.num_layers));
  model.set_parameters(config.NumParameters());

  v1::RankInfo& info = *registration.mutable_info();
  info.set_rank(static_cast<uint32_t>(world.rank()));
  info.set_tp_rank(static_cast<uint32_t>(coord.tp_rank));
  info.set_pp_rank(static_cast<uint32_t>(coord.pp_rank));
  info.set_host(HostName());
  info.set_threads(static_cast<uint32_t>(ops.threads()));
  info.set_device(std::string(ops.name()));
  info.set_shard_bytes(runner.load_report().shard_bytes);
  info.set_bytes_read(runner.load_report().bytes_read);
  info.set_load_ms(runner.load_report().load_ms);
  info.set_layer_begin(static_cast<uint32_t>(runner.shard().layers.begin));
  info.set_layer_end(static_cast<uint32_t>(runner.shard().layers.end));
  info.set_kv_bytes(static_cast<uint64_t>(runner.pool_blocks() * runner.block_bytes()));
  info.set_pid(static_cast<uint32_t>(getpid()));
  return registration;
}

absl::Status ServeCoordinator(const ControlOptions& options, const v1::Register& registration,
                              ModelRunner& runner, RankHealth& health) {
  return Service(options, registration, runner, health).Run();
}

}  // namespace trireme
