#include "base/file_fingerprint.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr size_t kStart = size_t{1} << 20;

}  // namespace

absl::StatusOr<std::string> FileFingerprint(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const std::span<const std::byte> bytes = file.bytes();
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint8_t byte) { hash = (hash ^ byte) * 0x100000001b3; };
  for (int shift = 0; shift < 64; shift += 8) add(static_cast<uint8_t>(bytes.size() >> shift));
  for (const std::byte byte : bytes.first(std::min(bytes.size(), kStart))) {
    add(std::to_integer<uint8_t>(byte));
  }
  return absl::StrFormat("%016x, %d bytes", hash, bytes.size());
}

}  // namespace trireme
