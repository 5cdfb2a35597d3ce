#include "tests/fault/answers.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <random>

#include "absl/strings/str_cat.h"

namespace trireme::fault {
namespace {

constexpr uint32_t kContinuationsMax = 8;

constexpr std::array kTopics = {"Trireme",   "the sea",    "a rowing bench", "three banks of oars",
                                "a harbour", "the wind",   "a long voyage",  "an old captain",
                                "the night", "a map",      "bread and salt", "the storm",
                                "a lantern", "the island", "a drum",         "the city walls"};

}  // namespace

std::vector<v1::GenerateRequest> MakeRequests(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](uint64_t n) { return static_cast<uint32_t>(random() % n); };
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    v1::GenerateRequest& request = requests.emplace_back();
    std::string prompt = "Tell me about ";
    for (uint32_t words = 1 + below(below(4) == 0 ? 60 : 4); words > 0; --words) {
      absl::StrAppend(&prompt, kTopics[below(kTopics.size())], words > 1 ? ", then " : ".");
    }
    request.set_prompt(prompt);
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_max_tokens(40 + below(160));
    sampling.set_ignore_eos(below(4) > 0);
    sampling.set_temperature(0);
    if (i % 3 != 0) {
      sampling.set_temperature(0.5f + 0.25f * static_cast<float>(below(4)));
      sampling.set_seed(random());
      sampling.set_n(below(3) == 0 ? 2 + below(2) : 1);
    }
    if (below(3) == 0) sampling.set_top_p(0.9f);
    if (below(4) == 0) sampling.set_frequency_penalty(0.5f);
    if (below(4) == 0) sampling.set_repetition_penalty(1.2f);
    if (below(4) == 0) sampling.set_logprobs(below(3));
    if (below(4) == 0) sampling.add_stop("and the");
  }
  return requests;
}

absl::StatusOr<Answer> Ask(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                           const std::function<void()>& on_message) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
  const auto stream = stub.Generate(&context, request);
  Answer answer;
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
    on_message();
    if (response.index() >= kContinuationsMax) return absl::InternalError("an index out of range");
    if (response.index() >= answer.continuations.size()) {
      answer.continuations.resize(response.index() + 1);
    }
    Continuation& continuation = answer.continuations[response.index()];
    if (continuation.finish_reason != v1::FINISH_REASON_UNSPECIFIED &&
        response.token_ids_size() > 0) {
      return absl::InternalError("tokens after the end");
    }
    continuation.token_ids.insert(continuation.token_ids.end(), response.token_ids().begin(),
                                  response.token_ids().end());
    continuation.text += response.text();
    for (const v1::LogprobEntry& entry : response.logprobs()) {
      continuation.logprobs += entry.SerializeAsString();
    }
    if (response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      continuation.finish_reason = response.finish_reason();
    }
    if (response.has_usage()) {
      answer.prompt_tokens = response.usage().prompt_tokens();
      answer.completion_tokens = response.usage().completion_tokens();
    }
  }
  const grpc::Status status = stream->Finish();
  if (status.ok()) return answer;
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && answer.continuations.empty() &&
      context.GetServerTrailingMetadata().count("retry-after") > 0) {
    return absl::UnavailableError(status.error_message());
  }
  return absl::UnknownError(
      absl::StrCat("status ", status.error_code(), ": ", status.error_message()));
}

Damage Compare(const Answer& want, const Answer& got) {
  Damage damage;
  const size_t count = std::max(want.continuations.size(), got.continuations.size());
  for (size_t i = 0; i < count; ++i) {
    static const std::vector<int32_t> none;
    const auto& a = i < want.continuations.size() ? want.continuations[i].token_ids : none;
    const auto& b = i < got.continuations.size() ? got.continuations[i].token_ids : none;
    const size_t both = std::min(a.size(), b.size());
    damage.lost += a.size() - both;
    damage.surplus += b.size() - both;
    for (size_t k = 0; k < both; ++k) damage.differing += a[k] != b[k] ? 1 : 0;
  }
  return damage;
}

}  // namespace trireme::fault
