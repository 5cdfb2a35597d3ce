// Any text as SHA256SUMS: refused with a line number, or names with digests of 64 hex digits.

#include <cstdlib>
#include <string>
#include <string_view>

#include "worker/sha256_sums.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto sums = trireme::ParseSha256Sums(text, "SHA256SUMS");
  if (!sums.ok()) {
    if (!std::string(sums.status().message()).starts_with("SHA256SUMS:")) std::abort();
    return 0;
  }
  std::string written;
  for (const auto& [name, digest] : *sums) {
    if (digest.size() != 64 || name.empty() || name.find('\n') != name.npos) std::abort();
    if (digest.find_first_not_of("0123456789abcdef") != digest.npos) std::abort();
    written += digest + "  ./" + name + "\n";
  }
  // What sha256sum would write of them says the same.
  const auto again = trireme::ParseSha256Sums(written, "SHA256SUMS");
  if (!again.ok() || *again != *sums) std::abort();
  return 0;
}
