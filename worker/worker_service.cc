#include "worker/worker_service.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/network_devices.h"
#include "trireme/v1/worker.grpc.pb.h"
#include "worker/control_stream.h"
#include "worker/coordinator_channel.h"

namespace trireme {
namespace {

// The end of a stream as the worker sees it.
absl::Status StreamEnded(const std::string& coordinator, const grpc::Status& status) {
  const std::string why = status.ok() ? "it closed the control stream" : status.error_message();
  return absl::UnavailableError(absl::StrCat("coordinator ", coordinator, ": ", why));
}

absl::Status SendFailure(ControlStream& stream, const absl::Status& error) {
  v1::WorkerMessage message;
  message.mutable_failure()->set_message(std::string(error.message()));
  stream.Send(message);
  stream.SendsDone();
  // Leaving now would cancel the call, and the message with it: the coordinator ends it when it has
  // read why.
  while (stream.Next().has_value()) {
  }
  return error;
}

// Serves one connected stream. Plans wait in the stream while a step computes.
absl::Status RunStream(ControlStream& stream, const std::string& coordinator, ModelRunner& runner,
                       RankHealth& health) {
  using Clock = std::chrono::steady_clock;
  v1::WorkerMessage answer;
  auto step_end = Clock::now();
  while (const std::optional<v1::CoordinatorMessage> message = stream.Next()) {
    if (message->has_registered()) {
      RETURN_IF_ERROR(
          stream.KeepLease(std::chrono::milliseconds(message->registered().lease_ms())));
    } else if (message->has_welcome()) {
      LogInfo(absl::StrCat("serving, epoch ", message->welcome().epoch()));
      health.Joined();
    } else if (message->has_shutdown()) {
      LogInfo(absl::StrCat("stopping: ", message->shutdown().reason()));
      health.Left();
      stream.SendsDone();
      return runner.Finish();
    } else if (message->has_plan()) {
      const std::chrono::duration<double, std::milli> idle = Clock::now() - step_end;
      stream.BeginStep(message->plan().step());
      health.StepBegins();
      absl::StatusOr<v1::StepResult> result = runner.Step(message->plan());
      step_end = Clock::now();
      if (!result.ok()) return SendFailure(stream, result.status());
      stream.EndStep(message->plan().step());
      health.StepEnds();
      if (!runner.is_responder()) continue;
      result->set_idle_ms(idle.count());
      *answer.mutable_result() = *std::move(result);
      if (!stream.Send(answer)) break;
    }
  }
  while (stream.Next().has_value()) {
  }
  return StreamEnded(coordinator, stream.Finish());
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
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   ConnectCoordinator(options.coordinator,
                                      std::chrono::milliseconds(options.connect_timeout_ms)));
  const auto stub = v1::WorkerControl::NewStub(channel);
  ControlStream stream(*stub, registration);
  if (options.stop_signal != nullptr) {
    options.stop_signal->OnStop([&] {
      health.Left();
      stream.Drain();
    });
  }
  const absl::Status status = RunStream(stream, options.coordinator, runner, health);
  if (options.stop_signal != nullptr) options.stop_signal->OnStop(nullptr);
  health.Left();
  return status;
}

}  // namespace trireme
