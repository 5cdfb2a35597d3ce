#include "coordinator/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme {

absl::StatusOr<StopStrings> StopStrings::Create(std::vector<std::string> stops) {
  if (stops.size() > kStringsMax) {
    return absl::InvalidArgumentError(StrCat("more than ", kStringsMax, " stop strings"));
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kStringBytesMax || !IsValidUtf8(stop)) {
      return absl::InvalidArgumentError(
          StrCat("a stop string must be UTF-8 of 1 to ", kStringBytesMax, " bytes"));
    }
  }
  return StopStrings(std::move(stops));
}

StopStrings::StopStrings(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    std::vector<size_t> failure(text.size(), 0);
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = failure[border - 1];
      if (text[i] == text[border]) ++border;
      failure[i] = border;
    }
    stops_.push_back({std::move(text), std::move(failure), 0});
  }
}

StopStrings::Result StopStrings::Append(std::string_view text) {
  Result result;
  if (stopped_) return result;
  size_t held = 0;  // bytes at the end of held_ that may begin a stop string
  for (const char c : text) {
    held_.push_back(c);
    held = 0;
    size_t found = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      Stop& stop = stops_[s];
      while (stop.matched > 0 && stop.text[stop.matched] != c) {
        stop.matched = stop.failure[stop.matched - 1];
      }
      if (stop.text[stop.matched] == c) ++stop.matched;
      if (stop.matched == stop.text.size() && stop.matched > found) {
        found = stop.matched;
        result.stop_index = s;
      }
      held = std::max(held, stop.matched);
    }
    if (found > 0) {
      stopped_ = result.stopped = true;
      result.text = held_.substr(0, held_.size() - found);
      held_.clear();
      return result;
    }
  }
  if (text.empty()) return result;
  result.text = held_.substr(0, held_.size() - held);
  held_.erase(0, held_.size() - held);
  return result;
}

std::string StopStrings::Flush() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, "");
}

}  // namespace trireme
