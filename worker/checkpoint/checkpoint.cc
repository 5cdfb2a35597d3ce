#include "worker/checkpoint/checkpoint.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "worker/checkpoint/safetensors.h"

namespace trireme {
namespace {

struct Reader {
  bool (*recognises)(const std::filesystem::path& dir);
  absl::StatusOr<std::unique_ptr<Checkpoint>> (*open)(const std::filesystem::path& dir);
};

constexpr std::array kReaders = {Reader{&HasSafetensors, &OpenSafetensors}};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error)) {
    return absl::NotFoundError(absl::StrCat(dir.string(),
                                            ": not a directory; --model takes a Hugging "
                                            "Face checkpoint directory"));
  }
  for (const Reader& reader : kReaders) {
    if (reader.recognises(dir)) return reader.open(dir);
  }
  return absl::NotFoundError(absl::StrCat(
      dir.string(), ": no weights; expected model.safetensors or model.safetensors.index.json"));
}

}  // namespace trireme
