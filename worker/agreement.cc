#include "worker/agreement.h"

#include <span>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

constexpr char kAgreed[] = "trireme.agreed";

struct Outcome {
  absl::StatusCode code = absl::StatusCode::kOk;
  char message[1020] = {};
};

bool OfAnother(absl::StatusCode code) {
  return code == absl::StatusCode::kAborted || code == absl::StatusCode::kUnavailable ||
         code == absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

bool IsAgreed(const absl::Status& error) { return error.GetPayload(kAgreed).has_value(); }

absl::Status Agree(const absl::Status& mine, Communicator& world) {
  if (IsAgreed(mine)) return mine;
  Outcome outcome{.code = mine.code()};
  const std::string text(mine.message());
  text.copy(outcome.message, sizeof(outcome.message) - 1);
  std::vector<Outcome> all(static_cast<size_t>(world.size()));
  const absl::Status told = world.AllGather(std::as_bytes(std::span(&outcome, 1)),
                                            std::as_writable_bytes(std::span(all)));
  if (!told.ok()) return mine.ok() ? told : mine;
  const Outcome* cause = nullptr;
  for (const Outcome& other : all) {
    if (other.code == absl::StatusCode::kOk) continue;
    if (cause == nullptr || (OfAnother(cause->code) && !OfAnother(other.code))) cause = &other;
  }
  if (cause == nullptr) return absl::OkStatus();
  absl::Status agreed(cause->code, absl::StrCat("rank ", cause - all.data(), ": ", cause->message));
  agreed.SetPayload(kAgreed, absl::Cord());
  return agreed;
}

}  // namespace trireme
