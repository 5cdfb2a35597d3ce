// Reads tokenizer.json. Every key that changes ids is read or refused.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/byte_level_bpe.h"
#include "coordinator/text/character_bpe.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/tokenizer_model.h"
#include "coordinator/text/unigram.h"

namespace trireme {
namespace {

using nlohmann::json;

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

// A decimal number as the reference reads it: the digits as an integer, rounded, and then the power
// of ten, rounded again. That differs in the last bit now and then, which decides between two ways
// to cut a text whose scores are otherwise the same.
double RoundedTwice(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, std::end(buffer), std::abs(value),
                                 std::chars_format::scientific);  // d.ddde-dd, as short as can be
  uint64_t digits = 0;
  int exponent = 0;
  const char* pos = buffer;
  for (bool fraction = false; pos < end.ptr && *pos != 'e'; ++pos) {
    if (*pos == '.') {
      fraction = true;
      continue;
    }
    if (*pos < '0' || *pos > '9') return value;  // not finite
    digits = digits * 10 + static_cast<uint64_t>(*pos - '0');
    exponent -= fraction ? 1 : 0;
  }
  const bool negative = pos + 1 < end.ptr && pos[1] == '-';
  int written = 0;
  if (pos + 2 < end.ptr) std::from_chars(pos + 2, end.ptr, written);
  exponent += negative ? -written : written;
  constexpr int kExactPowersMax = 22;
  if (std::abs(exponent) > kExactPowersMax) return value;
  double power = 1;
  for (int i = 0; i < std::abs(exponent); ++i) power *= 10;
  const auto whole = static_cast<double>(digits);
  return std::copysign(exponent < 0 ? whole / power : whole * power, value);
}

}  // namespace

class Tokenizer::Parser {
 public:
  static absl::StatusOr<Tokenizer> Run(const json& file) {
    if (!file.is_object()) return absl::InvalidArgumentError("not a JSON object");
    Parser parser;
    const json& model = JsonMember(file, "model");
    RETURN_IF_ERROR(parser.ReadModel(model));
    ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::Parse(JsonMember(file, "normalizer")));
    RETURN_IF_ERROR(parser.ReadAddedTokens(JsonMember(file, "added_tokens"), normalizer));
    RETURN_IF_ERROR(
        parser.ReadPostProcessor(JsonMember(file, "post_processor"), "post_processor", 0));
    ASSIGN_OR_RETURN(TokenDecoder decoder, TokenDecoder::Parse(JsonMember(file, "decoder")));
    ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                     PreTokenizer::Parse(JsonMember(file, "pre_tokenizer")));
    ASSIGN_OR_RETURN(Vocabulary tokens, Vocabulary::Create(parser.tokens_));
    const auto vocabulary = std::make_shared<const Vocabulary>(std::move(tokens));
    ASSIGN_OR_RETURN(std::unique_ptr<const TextModel> text_model,
                     parser.unigram_ ? parser.MakeUnigram(model, vocabulary)
                                     : MakeBpe(model, vocabulary, pre_tokenizer.byte_level()));
    auto result = std::make_shared<Model>(
        Model{vocabulary, AddedTokenMatcher(std::move(parser.raw_)),
              AddedTokenMatcher(std::move(parser.normalized_)), std::move(normalizer),
              std::move(pre_tokenizer), std::move(text_model), std::move(decoder),
              std::move(parser.prefix_), std::move(parser.suffix_), /*bytes=*/"", /*begins=*/{},
              std::move(parser.decoded_as_)});
    result->DecodeVocabulary(/*spellings=*/{});
    return Tokenizer(std::move(result));
  }

 private:
  absl::Status ReadModel(const json& model) {
    if (!model.is_object()) return Invalid("model", "not an object");
    const std::string type = JsonType(model);
    unigram_ = type == "Unigram";
    if (unigram_) return ReadScoredVocab(JsonMember(model, "vocab"));
    // Files of old versions of the library have no "type".
    if (type != "BPE" && !(type.empty() && model.contains("merges"))) {
      return Unsupported("model.type", type);
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& value = JsonMember(model, key);
      if (!value.is_null() && value != "") return Unsupported(StrCat("model.", key), value);
    }
    const json& dropout = JsonMember(model, "dropout");
    if (!dropout.is_null() && dropout != 0.0) return Unsupported("model.dropout", dropout);
    const json& vocab = JsonMember(model, "vocab");
    if (!vocab.is_object() || vocab.empty()) return Invalid("model.vocab", "not a table of ids");
    for (auto it = vocab.begin(); it != vocab.end(); ++it) {
      ASSIGN_OR_RETURN(const int32_t id,
                       JsonId(it.value(), StrCat("model.vocab[\"", it.key(), "\"]")));
      RETURN_IF_ERROR(SetToken(it.key(), id, "model.vocab"));
      tokens_[static_cast<size_t>(id)].piece = true;
    }
    return absl::OkStatus();
  }

  // [["▁the", -3.5], …]: ids in order.
  absl::Status ReadScoredVocab(const json& vocab) {
    if (!vocab.is_array() || vocab.empty()) return Invalid("model.vocab", "not a list of pieces");
    for (size_t i = 0; i < vocab.size(); ++i) {
      const json& entry = vocab[i];
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() ||
          !entry[1].is_number() || i > Vocabulary::kIdMax) {
        return Invalid(StrCat("model.vocab[", i, "]"), "not a pair of piece and score");
      }
      RETURN_IF_ERROR(
          SetToken(entry[0].get_ref<const std::string&>(), static_cast<int32_t>(i), "model.vocab"));
      tokens_[i].piece = true;
      scores_.push_back(RoundedTwice(entry[1].get<double>()));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<const TextModel>> MakeUnigram(
      const json& model, std::shared_ptr<const Vocabulary> vocabulary) {
    Unigram::Options options;
    const json& unknown = JsonMember(model, "unk_id");
    if (!unknown.is_null()) {
      ASSIGN_OR_RETURN(options.unknown_id, JsonId(unknown, "model.unk_id"));
    }
    ASSIGN_OR_RETURN(options.byte_fallback, JsonBool(model, "byte_fallback", false, "model"));
    scores_.resize(static_cast<size_t>(vocabulary->size()));  // added tokens have none
    return Unigram::Create(std::move(vocabulary), std::move(scores_), options);
  }

  static absl::StatusOr<std::unique_ptr<const TextModel>> MakeBpe(
      const json& model, std::shared_ptr<const Vocabulary> vocabulary, bool byte_level) {
    ASSIGN_OR_RETURN(MergeTable merges, ReadMerges(JsonMember(model, "merges"), *vocabulary));
    ASSIGN_OR_RETURN(const bool ignore_merges, JsonBool(model, "ignore_merges", false, "model"));
    CharacterBpe::Options options;
    options.ignore_merges = ignore_merges;
    ASSIGN_OR_RETURN(options.byte_fallback, JsonBool(model, "byte_fallback", false, "model"));
    ASSIGN_OR_RETURN(options.fuse_unknown, JsonBool(model, "fuse_unk", false, "model"));
    // These three do not matter where every byte is in the vocabulary.
    if (byte_level) {
      return ByteLevelBpe::Create(std::move(vocabulary), std::move(merges), ignore_merges);
    }
    if (!JsonMember(model, "unk_token").is_null()) {
      ASSIGN_OR_RETURN(const std::string unknown, JsonString(model, "unk_token", "model"));
      options.unknown_id = vocabulary->FindPiece(unknown);
      if (options.unknown_id < 0) return Invalid("model.unk_token", "not in model.vocab");
    }
    return std::make_unique<const CharacterBpe>(std::move(vocabulary), std::move(merges), options);
  }

  // ["a b", …] or [["a", "b"], …]
  static absl::StatusOr<MergeTable> ReadMerges(const json& merges, const Vocabulary& vocabulary) {
    if (!merges.is_array()) return Invalid("model.merges", "not a list");
    MergeTable::Builder builder(vocabulary, "model.merges", merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const json& merge = merges[i];
      if (merge.is_string()) {
        const std::string_view text = merge.get_ref<const std::string&>();
        const size_t space = std::min(text.find(' '), text.size());
        RETURN_IF_ERROR(
            builder.Add(text.substr(0, space), text.substr(std::min(space + 1, text.size()))));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        RETURN_IF_ERROR(builder.Add(merge[0].get_ref<const std::string&>(),
                                    merge[1].get_ref<const std::string&>()));
      } else {
        return Invalid(StrCat("model.merges[", i, "]"), "not a pair of tokens");
      }
    }
    return std::move(builder).Build();
  }

  // `content` lives as long as the file.
  absl::Status SetToken(std::string_view content, int32_t id, const std::string& where) {
    if (id > Vocabulary::kIdMax) return Invalid(where, StrCat("id ", id, " is too large"));
    const auto index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    Vocabulary::Token& token = tokens_[index];
    if (token.exists && token.text != content) {
      return Invalid(where, StrCat("two tokens have id ", id, ", one is \"", content, "\""));
    }
    token.text = content;
    token.exists = true;
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const json& list, const Normalizer& normalizer) {
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
      RETURN_IF_ERROR(
          SetToken(JsonMember(entry, "content").get_ref<const std::string&>(), token.id, where));
      tokens_[static_cast<size_t>(token.id)].special |= token.special;
      if (token.normalized) {
        ASSIGN_OR_RETURN(std::string normalized, normalizer.Apply(token.content));
        if (normalized != token.content) decoded_as_[token.id] = normalized;
        token.content = std::move(normalized);
      }
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

  bool unigram_ = false;
  std::vector<double> scores_;  // of a unigram model, by id
  std::vector<AddedToken> raw_;
  std::vector<AddedToken> normalized_;
  std::map<int32_t, std::string> decoded_as_;  // normalized tokens, as the reference shows them
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
  std::vector<Vocabulary::Token> tokens_;  // by id; texts lie in the file
};

absl::StatusOr<Tokenizer> Tokenizer::Parse(std::string_view text, std::string_view name) {
  const json file = json::parse(text, nullptr, /*allow_exceptions=*/false);
  absl::StatusOr<Tokenizer> result =
      file.is_discarded() ? absl::InvalidArgumentError("not JSON") : Parser::Run(file);
  if (result.ok()) return result;
  return absl::Status(result.status().code(), StrCat(name, ": ", result.status().message()));
}

}  // namespace trireme
