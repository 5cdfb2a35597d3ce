#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/gguf_file.h"

namespace trireme {

// What a token of a GGUF file is for: "tokenizer.ggml.token_type".
enum class GgufTokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// The tokens in the metadata of a GGUF file. As in llama.cpp some are known by their texts: files
// say of "<|im_end|>" and its like that they were ordinary, or leave out that they end an answer.
struct GgufTokens {
  std::vector<std::string_view> texts;  // by id; lie in the file
  std::vector<GgufTokenType> types;     // by id
  std::vector<int32_t> end_ids;         // end a generation: ascending

  // "tokenizer.ggml.bos_token_id" and the like; -1 if there is none.
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unknown_id = -1;

  // "" for -1.
  std::string Text(int32_t id) const {
    return id < 0 ? "" : std::string(texts[static_cast<size_t>(id)]);
  }

  // InvalidArgument names file and key.
  static absl::StatusOr<GgufTokens> Read(const GgufFile& file);

 private:
  absl::Status ReadTypes(const GgufFile& file);
  absl::Status ReadIds(const GgufFile& file);
  void RecogniseTexts();
  GgufTokenType& TypeOf(int32_t id) { return types[static_cast<size_t>(id)]; }
};

}  // namespace trireme
