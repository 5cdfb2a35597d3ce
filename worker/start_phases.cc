#include "worker/start_phases.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace trireme {
namespace {

double Seconds(StartPhases::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void StartPhases::End(std::string_view phase, Clock::time_point now) {
  const Clock::duration time = now - std::exchange(mark_, now);
  const auto found = std::find_if(phases_.begin(), phases_.end(),
                                  [&](const auto& known) { return known.first == phase; });
  if (found == phases_.end()) {
    phases_.emplace_back(phase, time);
  } else {
    found->second += time;
  }
}

std::string StartPhases::Describe() const {
  Clock::duration total{};
  std::string parts;
  for (const auto& [phase, time] : phases_) {
    total += time;
    absl::StrAppend(&parts, parts.empty() ? ": " : ", ", phase,
                    absl::StrFormat(" %.2f", Seconds(time)));
  }
  return absl::StrCat(absl::StrFormat("ready after %.2f s", Seconds(total)), parts);
}

}  // namespace trireme
