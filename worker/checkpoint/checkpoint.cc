#include "worker/checkpoint/checkpoint.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "worker/checkpoint/gguf.h"
#include "worker/checkpoint/quantized_safetensors.h"
#include "worker/checkpoint/safetensors.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

struct Reader {
  bool (*recognises)(const std::filesystem::path& path);
  absl::StatusOr<std::unique_ptr<Checkpoint>> (*open)(const std::filesystem::path& path);
};

constexpr std::array kReaders = {Reader{&HasQuantizedSafetensors, &OpenQuantizedSafetensors},
                                 Reader{&HasSafetensors, &OpenSafetensors},
                                 Reader{&IsGguf, &OpenGguf}};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::filesystem::path& path) {
  for (const Reader& reader : kReaders) {
    if (reader.recognises(path)) return reader.open(path);
  }
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat(path.string(),
                                            ": neither a directory nor a .gguf file; --model takes "
                                            "a Hugging Face checkpoint directory or a GGUF file"));
  }
  return absl::NotFoundError(absl::StrCat(
      path.string(),
      ": no weights; expected model.safetensors or model.safetensors.index.json. A GGUF file is "
      "given by its own path"));
}

absl::Status Checkpoint::Read(const TensorSlice& slice, std::span<std::byte> destination) const {
  if (const TensorInfo* info = Find(slice.name);
      info != nullptr && !(BlockColumns(slice, info->dtype) == slice.cols)) {
    return absl::InternalError(absl::StrCat("slice of ", Quoted(slice.name),
                                            " begins or ends inside a block of its data type"));
  }
  return ReadBlocks(slice, 0, slice.rows.size(), destination);
}

}  // namespace trireme
