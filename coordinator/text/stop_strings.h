#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// Finds stop strings in the growing text of one sequence. Text that may be the beginning of a stop
// string is held back, so that a client never sees a part of one. The stop string that ends first
// wins; of several that end there, the longest. Not thread safe: one for each sequence.
class StopStrings {
 public:
  static constexpr size_t kStringsMax = 64;
  static constexpr size_t kStringBytesMax = 4096;

  // InvalidArgument if there are too many, or one is empty, too long or not UTF-8.
  static absl::StatusOr<StopStrings> Create(std::vector<std::string> stops);

  struct Result {
    std::string text;       // to give out now; ends between characters if the input does
    bool stopped = false;   // a stop string was found: `text` is what came before it
    size_t stop_index = 0;  // which one, if stopped
  };

  // The next piece of text. After a stop nothing more comes out.
  Result Append(std::string_view text);

  // The text has ended without a stop string: gives out what was held back.
  std::string Flush();

 private:
  explicit StopStrings(std::vector<std::string> stops);

  struct Stop {
    std::string text;
    std::vector<size_t> failure;  // Knuth-Morris-Pratt: longest border of each prefix
    size_t matched = 0;           // bytes of `text` that the input now ends with
  };
  std::vector<Stop> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace trireme
