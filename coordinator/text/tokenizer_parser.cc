// Reads tokenizer.json. Every key that changes ids is read or refused.

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/status_macros.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/nfc.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/tokenizer_model.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 64 << 20;
constexpr size_t kAddedTokensMax = 100'000;
constexpr size_t kAddedTokenBytesMax = 1024;
constexpr size_t kTemplatePiecesMax = 64;
constexpr int kSequenceDepthMax = 4;

absl::Status Invalid(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": ", what));
}

absl::Status Unsupported(std::string_view where, const json& value) {
  // Short: the value may be a whole vocabulary.
  const std::string text = value.is_structured()
                               ? StrCat("type \"", JsonType(value), "\"")
                               : value.dump(-1, ' ', false, json::error_handler_t::replace);
  return absl::InvalidArgumentError(StrCat("unsupported: ", where, ": ", text));
}

}  // namespace

class Tokenizer::Parser {
 public:
  static absl::StatusOr<Tokenizer> Run(const json& file) {
    if (!file.is_object()) return absl::InvalidArgumentError("not a JSON object");
    Parser parser;
    RETURN_IF_ERROR(parser.ReadModel(JsonMember(file, "model")));
    RETURN_IF_ERROR(parser.ReadNormalizer(JsonMember(file, "normalizer"), "normalizer", 0));
    RETURN_IF_ERROR(parser.ReadAddedTokens(JsonMember(file, "added_tokens")));
    RETURN_IF_ERROR(
        parser.ReadPostProcessor(JsonMember(file, "post_processor"), "post_processor", 0));
    RETURN_IF_ERROR(parser.CheckDecoder(JsonMember(file, "decoder"), "decoder", 0));
    ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                     PreTokenizer::Parse(JsonMember(file, "pre_tokenizer")));
    ASSIGN_OR_RETURN(Bpe bpe, Bpe::Create(parser.bpe_));
    return Tokenizer(std::make_shared<const Model>(Model{
        AddedTokenMatcher(std::move(parser.raw_)), AddedTokenMatcher(std::move(parser.normalized_)),
        parser.nfc_, std::move(pre_tokenizer), std::move(bpe), std::move(parser.prefix_),
        std::move(parser.suffix_), std::move(parser.tokens_), std::move(parser.ids_)}));
  }

 private:
  absl::Status ReadModel(const json& model) {
    // Files of old versions of the library have no "type".
    if (!model.is_object()) return Invalid("model", "not an object");
    const std::string type = JsonType(model);
    if (type != "BPE" && !(type.empty() && model.contains("merges"))) {
      return Unsupported("model.type", type);
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& value = JsonMember(model, key);
      if (!value.is_null() && value != "") return Unsupported(StrCat("model.", key), value);
    }
    const json& dropout = JsonMember(model, "dropout");
    if (!dropout.is_null() && dropout != 0.0) return Unsupported("model.dropout", dropout);
    ASSIGN_OR_RETURN(const bool byte_fallback, JsonBool(model, "byte_fallback", false, "model"));
    if (byte_fallback) return Unsupported("model.byte_fallback", true);
    ASSIGN_OR_RETURN(bpe_.ignore_merges, JsonBool(model, "ignore_merges", false, "model"));
    // unk_token and fuse_unk do not matter: Bpe::Create wants every byte in the vocabulary.
    RETURN_IF_ERROR(ReadVocab(JsonMember(model, "vocab")));
    return ReadMerges(JsonMember(model, "merges"));
  }

  absl::Status ReadVocab(const json& vocab) {
    if (!vocab.is_object() || vocab.empty()) return Invalid("model.vocab", "not a table of ids");
    bpe_.vocab.reserve(vocab.size());
    for (auto it = vocab.begin(); it != vocab.end(); ++it) {
      ASSIGN_OR_RETURN(const int32_t id,
                       JsonId(it.value(), StrCat("model.vocab[\"", it.key(), "\"]")));
      RETURN_IF_ERROR(SetToken(it.key(), id, "model.vocab"));
      bpe_.vocab.emplace_back(it.key(), id);
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const json& merges) {
    if (!merges.is_array()) return Invalid("model.merges", "not a list");
    bpe_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const json& merge = merges[i];
      std::string left;
      std::string right;
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space != std::string::npos) {
          left = text.substr(0, space);
          right = text.substr(space + 1);
        }
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      }
      if (left.empty() || right.empty()) {
        return Invalid(StrCat("model.merges[", i, "]"), "not a pair");
      }
      bpe_.merges.emplace_back(std::move(left), std::move(right));
    }
    return absl::OkStatus();
  }

  // Records that `content` has `id`; the bytes it decodes to are the byte alphabet's or, if it has
  // other characters, its own.
  absl::Status SetToken(const std::string& content, int32_t id, std::string_view where) {
    if (id > Bpe::kIdMax) return Invalid(where, StrCat("id ", id, " is too large"));
    const auto index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (tokens_[index].exists) {
      const auto it = ids_.find(content);
      if (it != ids_.end() && it->second == id) return absl::OkStatus();
      return Invalid(where, StrCat("two tokens have id ", id, ", one is \"", content, "\""));
    }
    if (!ids_.emplace(content, id).second) {
      return Invalid(where, StrCat("\"", content, "\" has two ids"));
    }
    tokens_[index].exists = true;
    tokens_[index].bytes = SymbolsToBytes(content).value_or(content);
    return absl::OkStatus();
  }

  absl::Status ReadNormalizer(const json& normalizer, const std::string& where, int depth) {
    if (normalizer.is_null()) return absl::OkStatus();
    const std::string type = JsonType(normalizer);
    if (type == "NFC") {
      nfc_ = true;
      return absl::OkStatus();
    }
    const json& list = JsonMember(normalizer, "normalizers");
    if (type != "Sequence" || !list.is_array() || depth >= kSequenceDepthMax) {
      return Unsupported(where, normalizer);
    }
    for (size_t i = 0; i < list.size(); ++i) {
      RETURN_IF_ERROR(ReadNormalizer(list[i], StrCat(where, ".normalizers[", i, "]"), depth + 1));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const json& list) {
    if (list.is_null()) return absl::OkStatus();
    if (!list.is_array() || list.size() > kAddedTokensMax) {
      return Invalid("added_tokens", StrCat("not a list of at most ", kAddedTokensMax));
    }
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string where = StrCat("added_tokens[", i, "]");
      const json& entry = list[i];
      AddedToken token;
      ASSIGN_OR_RETURN(token.content, JsonString(entry, "content", where));
      ASSIGN_OR_RETURN(token.id, JsonId(JsonMember(entry, "id"), where + ".id"));
      ASSIGN_OR_RETURN(token.special, JsonBool(entry, "special", false, where));
      ASSIGN_OR_RETURN(token.lstrip, JsonBool(entry, "lstrip", false, where));
      ASSIGN_OR_RETURN(token.rstrip, JsonBool(entry, "rstrip", false, where));
      ASSIGN_OR_RETURN(token.single_word, JsonBool(entry, "single_word", false, where));
      ASSIGN_OR_RETURN(token.normalized, JsonBool(entry, "normalized", !token.special, where));
      if (token.content.empty() || token.content.size() > kAddedTokenBytesMax) {
        return Invalid(where + ".content", "empty or too long");
      }
      RETURN_IF_ERROR(SetToken(token.content, token.id, where));
      tokens_[static_cast<size_t>(token.id)].special |= token.special;
      if (token.normalized && nfc_) token.content = NormalizeNfc(token.content);
      (token.normalized ? normalized_ : raw_).push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  absl::Status ReadPostProcessor(const json& processor, const std::string& where, int depth) {
    if (processor.is_null()) return absl::OkStatus();
    const std::string type = JsonType(processor);
    if (type == "ByteLevel") return absl::OkStatus();  // only changes offsets
    if (type == "TemplateProcessing") return ReadTemplate(processor, where);
    const json& list = JsonMember(processor, "processors");
    if (type != "Sequence" || !list.is_array() || depth >= kSequenceDepthMax) {
      return Unsupported(where, processor);
    }
    for (size_t i = 0; i < list.size(); ++i) {
      RETURN_IF_ERROR(ReadPostProcessor(list[i], StrCat(where, ".processors[", i, "]"), depth + 1));
    }
    return absl::OkStatus();
  }

  // {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, …],
  //  "special_tokens": {"<s>": {"ids": [1], …}}}
  absl::Status ReadTemplate(const json& processor, const std::string& where) {
    const json& pieces = JsonMember(processor, "single");
    if (!pieces.is_array() || pieces.size() > kTemplatePiecesMax) {
      return Invalid(where + ".single", "not a short list");
    }
    std::vector<int32_t> before;
    std::vector<int32_t> after;
    bool seen_text = false;
    for (const json& piece : pieces) {
      if (JsonMember(piece, "Sequence").is_object() && !seen_text) {
        seen_text = true;
        continue;
      }
      ASSIGN_OR_RETURN(const std::string name,
                       JsonString(JsonMember(piece, "SpecialToken"), "id", where + ".single"));
      const json& ids =
          JsonMember(JsonMember(JsonMember(processor, "special_tokens"), name), "ids");
      if (!ids.is_array() || ids.size() > kTemplatePiecesMax) {
        return Invalid(where + ".special_tokens", StrCat("no ids for \"", name, "\""));
      }
      for (const json& value : ids) {
        ASSIGN_OR_RETURN(const int32_t id, JsonId(value, where + ".special_tokens"));
        if (static_cast<size_t>(id) >= tokens_.size() || !tokens_[static_cast<size_t>(id)].exists) {
          return Invalid(where + ".special_tokens", StrCat("no token has id ", id));
        }
        (seen_text ? after : before).push_back(id);
      }
    }
    if (!seen_text) return Invalid(where + ".single", "no Sequence");
    prefix_.insert(prefix_.begin(), before.begin(), before.end());
    suffix_.insert(suffix_.end(), after.begin(), after.end());
    return absl::OkStatus();
  }

  absl::Status CheckDecoder(const json& decoder, const std::string& where, int depth) {
    const std::string type = JsonType(decoder);
    if (type == "ByteLevel") return absl::OkStatus();
    const json& list = JsonMember(decoder, "decoders");
    if (type != "Sequence" || !list.is_array() || list.size() != 1 || depth >= kSequenceDepthMax) {
      return Unsupported(where, decoder);
    }
    return CheckDecoder(list[0], where + ".decoders[0]", depth + 1);
  }

  Bpe::Spec bpe_;
  bool nfc_ = false;
  std::vector<AddedToken> raw_;
  std::vector<AddedToken> normalized_;
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
  std::vector<Model::Token> tokens_;
  StringMap<int32_t> ids_;
};

absl::StatusOr<Tokenizer> Tokenizer::Parse(std::string_view text, std::string_view name) {
  if (text.size() > kFileBytesMax) return Invalid(name, "too large");
  const json file = json::parse(text, nullptr, /*allow_exceptions=*/false);
  absl::StatusOr<Tokenizer> result =
      file.is_discarded() ? absl::InvalidArgumentError("not JSON") : Parser::Run(file);
  if (result.ok()) return result;
  return absl::Status(result.status().code(), StrCat(name, ": ", result.status().message()));
}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::filesystem::path& path) {
  std::error_code error;
  const bool directory = std::filesystem::is_directory(path, error);
  const std::filesystem::path file = directory ? path / "tokenizer.json" : path;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kFileBytesMax));
  return Parse(text, file.string());
}

}  // namespace trireme
