#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/gateway/sampling.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/stop_strings.h"
#include "coordinator/text/tokenizer.h"

namespace trireme {

// The text of one continuation as it grows: tokens in, whole characters out, up to a stop string.
// Not thread safe.
class OutputText {
 public:
  // InvalidArgument if the stop strings are not acceptable.
  static absl::StatusOr<OutputText> Create(const Tokenizer& tokenizer,
                                           const ResolvedSampling& sampling);

  // The text that this token makes certain; `stopped` if a stop string was found.
  StopStrings::Result Append(int32_t token_id);

  // After the last token: what was held back. It may still complete a stop string.
  StopStrings::Result Finish();

 private:
  OutputText(const Tokenizer& tokenizer, StopStrings stops, bool skip_special)
      : tokenizer_(tokenizer),
        detokenizer_(tokenizer),
        stops_(std::move(stops)),
        skip_special_(skip_special) {}

  Tokenizer tokenizer_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  bool skip_special_;
};

}  // namespace trireme
