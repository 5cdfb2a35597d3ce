#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

class GgufFile;
struct GgufTokens;

struct EncodeOptions {
  // Add what the post-processor adds around a text, usually the begin-of-sequence token. Off for
  // text that a chat template rendered: the template writes it.
  bool add_special_tokens = true;
  // Read "<|eot_id|>" and the like in the text as the control token. Off where text of a client
  // must not be able to forge one: it is then encoded as ordinary characters.
  bool parse_special = true;
};

// Text ↔ token ids, as a Hugging Face `tokenizer.json` describes it, with the ids the `tokenizers`
// library gives; or as the metadata of a GGUF file do, with the ids llama.cpp gives. Supported:
// byte-level BPE (Llama 3, Qwen, GPT-2, DeepSeek), SentencePiece's BPE with byte fallback (Llama 2,
// Mistral, Gemma), and Unigram (T5, ALBERT). Anything else in the file is an "unsupported: …" error
// that names file and key, never a silent difference; "truncation" and "padding" are ignored, they
// are for training.
//
// Immutable after loading: all methods are safe to call from several threads. Copies are cheap and
// share the tables.
class Tokenizer {
 public:
  // `path` is a tokenizer.json or a directory that has one. NotFound or InvalidArgument.
  static absl::StatusOr<Tokenizer> Load(const std::filesystem::path& path);

  // `name` stands for the file in errors.
  static absl::StatusOr<Tokenizer> Parse(std::string_view json, std::string_view name);

  // By the keys "tokenizer.ggml.…"; errors name file and key. Keeps nothing of the file.
  static absl::StatusOr<Tokenizer> FromGguf(const GgufFile& file, const GgufTokens& tokens);

  // Bytes that are not UTF-8 count as U+FFFD, one for each maximal ill-formed part, as in Python's
  // bytes.decode("utf-8", "replace"). Gives at most about one id for each byte; the caller bounds
  // the text. ResourceExhausted if a regex of the file backtracks without end.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  // A whole text, in UTF-8; bytes that do not form a character become U+FFFD. Unknown ids are
  // skipped. Tokenizers that put a space before a text take it away here.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // The bytes a token stands for inside of a text, which need not be whole characters. Empty for
  // an unknown id.
  std::string_view TokenBytes(int32_t id) const;

  // One more than the largest id; there may be ids below it that no token has.
  int32_t vocab_size() const;

  // By the token as the file writes it: an added token's content or, for the vocabulary, the byte
  // alphabet ("Ġhello") or SentencePiece's writing ("▁hello").
  std::optional<int32_t> TokenToId(std::string_view token) const;

  // A control token, which Decode skips on demand.
  bool IsSpecial(int32_t id) const;

 private:
  struct Model;
  class Parser;
  class GgufReader;
  explicit Tokenizer(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

  std::shared_ptr<const Model> model_;
};

}  // namespace trireme
