#include "cluster/planner/request_trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "cluster/bench_serve_workload.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kBytesMax = size_t{1} << 30;
constexpr size_t kLineMax = 4096;
constexpr size_t kRequestsMax = 1'000'000;
constexpr double kArrivalMax = 1e8;

std::optional<int64_t> Tokens(const json& object, const char* key) {
  const auto value = object.find(key);
  if (value == object.end() || !value->is_number_integer()) return std::nullopt;
  if (value->is_number_unsigned() && value->get<uint64_t>() > (uint64_t{1} << 40))
    return std::nullopt;
  const auto tokens = value->get<int64_t>();
  if (tokens < 1) return std::nullopt;
  return tokens;
}

// What is wrong with a line, or nothing.
std::string ParseLine(std::string_view line, int64_t context, TraceRequest& request) {
  if (line.size() > kLineMax) return absl::StrCat("longer than ", kLineMax, " bytes");
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return R"(not a JSON object such as {"arrival_s": 0.5, "prompt_tokens": 8, "output_tokens": 8})";
  }
  const auto arrival = object.find("arrival_s");
  if (arrival == object.end() || !arrival->is_number() || !(arrival->get<double>() >= 0) ||
      arrival->get<double>() > kArrivalMax) {
    return absl::StrCat("arrival_s must be a number from 0 to ", kArrivalMax);
  }
  const std::optional<int64_t> prompt = Tokens(object, "prompt_tokens");
  if (!prompt) return "prompt_tokens must be a whole number, at least 1";
  const std::optional<int64_t> output = Tokens(object, "output_tokens");
  if (!output) return "output_tokens must be a whole number, at least 1";
  if (*prompt + *output > context) {
    return absl::StrCat("its ", *prompt, " + ", *output, " tokens exceed --context ", context);
  }
  request = {
      .arrival_s = arrival->get<double>(), .prompt_tokens = *prompt, .output_tokens = *output};
  return "";
}

}  // namespace

absl::StatusOr<std::vector<TraceRequest>> ParseTrace(std::string_view text, std::string_view name,
                                                     int64_t context) {
  std::vector<TraceRequest> trace;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    begin = end + 1;
    if (line.empty()) continue;
    TraceRequest request;
    std::string wrong = ParseLine(line, context, request);
    if (wrong.empty() && trace.size() == kRequestsMax) {
      wrong = absl::StrCat("more than ", kRequestsMax, " requests");
    }
    if (!wrong.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(name), ", line ", number, ": ", wrong));
    }
    trace.push_back(request);
  }
  if (trace.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": no requests in it"));
  }
  std::stable_sort(trace.begin(), trace.end(), [](const TraceRequest& a, const TraceRequest& b) {
    return a.arrival_s < b.arrival_s;
  });
  return trace;
}

absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::filesystem::path& path,
                                                    int64_t context) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kBytesMax));
  return ParseTrace(text, path.string(), context);
}

absl::StatusOr<std::vector<TraceRequest>> GenerateTrace(const GeneratedTrace& options,
                                                        int64_t context) {
  // Only how many tokens there are counts, not which.
  constexpr uint32_t kVocabulary = 2;
  ASSIGN_OR_RETURN(
      const Workload workload,
      Workload::Create(
          {.input_len = options.input_len, .output_len = options.output_len, .seed = options.seed},
          static_cast<uint32_t>(context), kVocabulary));
  ArrivalProcess arrivals(options.rate, /*burstiness=*/1, options.seed);
  std::vector<TraceRequest> trace;
  trace.reserve(options.requests);
  for (uint64_t i = 0; i < options.requests; ++i) {
    const v1::GenerateRequest request = workload.Make(i).message;
    trace.push_back({.arrival_s = arrivals.Next(),
                     .prompt_tokens = request.prompt_token_ids().ids_size(),
                     .output_tokens = request.sampling().max_tokens()});
  }
  return trace;
}

}  // namespace trireme
