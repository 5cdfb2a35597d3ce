#include "base/quoted.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace trireme {

std::string Quoted(std::string_view name) {
  constexpr size_t kBytesMax = 120;
  const std::string text(name.substr(0, kBytesMax));
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text), name.size() > kBytesMax ? "...\"" : "\"");
}

}  // namespace trireme
