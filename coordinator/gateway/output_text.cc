#include "coordinator/gateway/output_text.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<OutputText> OutputText::Create(const Tokenizer& tokenizer,
                                              const ResolvedSampling& sampling) {
  ASSIGN_OR_RETURN(StopStrings stops, StopStrings::Create(sampling.stop));
  return OutputText(tokenizer, std::move(stops), sampling.skip_special_tokens);
}

StopStrings::Result OutputText::Append(int32_t token_id) {
  if (skip_special_ || !tokenizer_.IsSpecial(token_id)) {
    return stops_.Append(detokenizer_.Append(token_id));
  }
  return stops_.Append(detokenizer_.Flush() + std::string(tokenizer_.TokenBytes(token_id)));
}

StopStrings::Result OutputText::Finish() {
  StopStrings::Result last = stops_.Append(detokenizer_.Flush());
  if (!last.stopped) last.text += stops_.Flush();
  return last;
}

}  // namespace trireme
