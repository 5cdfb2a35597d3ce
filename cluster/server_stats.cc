#include "cluster/server_stats.h"

#include <google/protobuf/util/json_util.h>

#include <chrono>

namespace trireme {
namespace {

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

std::string ToJsonLine(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  return google::protobuf::util::MessageToJsonString(message, &text, options).ok() ? text : "{}";
}

grpc::Status GetStats(v1::Cluster::Stub& stub, v1::GetStatsResponse& stats) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return stub.GetStats(&context, {}, &stats);
}

std::optional<StatsDelta> StatsDelta::Between(const v1::GetStatsResponse& before,
                                              const v1::GetStatsResponse& after) {
  bool went_back = false;
  const auto difference = [&went_back](auto from, auto to) {
    went_back |= to < from;
    return to - from;
  };
  const StatsDelta delta = {
      .steps = difference(before.steps(), after.steps()),
      .tokens_prefilled = difference(before.tokens_prefilled(), after.tokens_prefilled()),
      .tokens_generated = difference(before.tokens_generated(), after.tokens_generated()),
      .prefix_tokens_asked = difference(before.prefix_tokens_asked(), after.prefix_tokens_asked()),
      .prefix_tokens_hit = difference(before.prefix_tokens_hit(), after.prefix_tokens_hit()),
      .preemptions = difference(before.preemptions(), after.preemptions()),
      .swaps = difference(before.swaps(), after.swaps()),
      .requests_finished = difference(before.requests_finished(), after.requests_finished()),
      .requests_cancelled = difference(before.requests_cancelled(), after.requests_cancelled()),
      .requests_refused = difference(before.requests_refused(), after.requests_refused()),
      .requests_failed = difference(before.requests_failed(), after.requests_failed()),
      .step_ms = difference(before.step_ms_total(), after.step_ms_total()),
      .idle_ms = difference(before.idle_ms_total(), after.idle_ms_total()),
      .bubble_ms = difference(before.bubble_ms_total(), after.bubble_ms_total())};
  if (went_back) return std::nullopt;
  return delta;
}

double StatsDelta::HitShare() const {
  return Ratio(static_cast<double>(prefix_tokens_hit), static_cast<double>(prefix_tokens_asked));
}

double StatsDelta::IdleShare() const { return Ratio(idle_ms, idle_ms + step_ms); }

double StatsDelta::BubbleShare() const { return Ratio(bubble_ms, step_ms); }

double StatsDelta::MeanStepMs() const { return Ratio(step_ms, static_cast<double>(steps)); }

}  // namespace trireme
