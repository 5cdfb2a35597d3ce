#include "worker/sha256_sums.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace trireme {
namespace {

constexpr size_t kHexDigits = 64;

}  // namespace

absl::StatusOr<Sha256Sums> ParseSha256Sums(std::string_view text, std::string_view origin) {
  Sha256Sums sums;
  int number = 0;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    if (line.empty()) continue;
    const absl::string_view hex = line.substr(0, kHexDigits);
    const bool digits = hex.size() == kHexDigits && std::all_of(hex.begin(), hex.end(), [](char c) {
                          return absl::ascii_isxdigit(static_cast<unsigned char>(c));
                        });
    // Two spaces, or a space and * where the file was read as binary.
    const bool spaced = line.size() > kHexDigits + 2 && line[kHexDigits] == ' ' &&
                        (line[kHexDigits + 1] == ' ' || line[kHexDigits + 1] == '*');
    std::string name(spaced ? line.substr(kHexDigits + 2) : "");
    if (name.starts_with("./")) name.erase(0, 2);
    if (!digits || name.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(std::string(origin), ":", number,
                                                     ": not a line of sha256sum: a digest of 64 "
                                                     "digits, two spaces, a file's name"));
    }
    sums[name] = absl::AsciiStrToLower(hex);
  }
  return sums;
}

}  // namespace trireme
