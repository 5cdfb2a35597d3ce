#include "coordinator/text/detokenizer.h"

#include "coordinator/text/utf8.h"

namespace trireme {

std::string Detokenizer::Append(int32_t id) {
  if (tokenizer_.IsSpecial(id)) return "";
  pending_.append(tokenizer_.TokenBytes(id));
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Kind::kIncomplete) break;
    out.append(step.kind == Utf8Kind::kValid ? rest.substr(0, step.bytes) : kReplacementCharacter);
    rest.remove_prefix(step.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string Detokenizer::Flush() {
  std::string out = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace trireme
