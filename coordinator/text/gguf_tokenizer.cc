// Makes a tokenizer out of the metadata of a GGUF file, with the meaning they have in llama.cpp.

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/byte_level_bpe.h"
#include "coordinator/text/charsmap.h"
#include "coordinator/text/gguf_pre_tokenizer.h"
#include "coordinator/text/gguf_tokens.h"
#include "coordinator/text/scored_bpe.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/tokenizer_model.h"
#include "coordinator/text/unigram.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";
constexpr std::string_view kCharsmapKey = "tokenizer.ggml.precompiled_charsmap";
constexpr std::string_view kBosKey = "tokenizer.ggml.bos_token_id";
constexpr std::string_view kEosKey = "tokenizer.ggml.eos_token_id";

}  // namespace

class Tokenizer::GgufReader {
 public:
  static absl::StatusOr<Tokenizer> Run(const GgufFile& file, const GgufTokens& tokens) {
    GgufReader reader(file, tokens);
    ASSIGN_OR_RETURN(const std::string_view model, file.String(kModelKey));
    RETURN_IF_ERROR(reader.ReadVocabulary());
    if (model == "gpt2") {
      RETURN_IF_ERROR(reader.ReadByteLevelBpe());
    } else if (model == "llama") {
      RETURN_IF_ERROR(reader.ReadScoredBpe());
    } else if (model == "t5") {
      RETURN_IF_ERROR(reader.ReadUnigram());
    } else {
      return reader.Invalid(kModelKey, StrCat("unsupported: \"", model,
                                              "\"; \"gpt2\", \"llama\" and \"t5\" can be used"));
    }
    RETURN_IF_ERROR(reader.ReadEnds());
    reader.model_->DecodeVocabulary(reader.spellings_);
    return Tokenizer(std::move(reader.model_));
  }

 private:
  GgufReader(const GgufFile& file, const GgufTokens& tokens) : file_(file), tokens_(tokens) {}

  absl::Status Invalid(std::string_view key, std::string_view what) const {
    return absl::InvalidArgumentError(StrCat(file_.origin(), ": ", key, ": ", what));
  }

  absl::Status ReadVocabulary() {
    std::vector<Vocabulary::Token> entries;
    entries.reserve(tokens_.texts.size());
    spellings_.reserve(tokens_.texts.size());
    std::vector<AddedToken> added;
    for (size_t i = 0; i < tokens_.texts.size(); ++i) {
      const GgufTokenType type = tokens_.types[i];
      const std::string_view text = tokens_.texts[i];
      const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
      const bool literal = special || type == GgufTokenType::kUserDefined;
      const bool silent = type == GgufTokenType::kUnused || type == GgufTokenType::kUndefined;
      // A client must not be able to write a control token or a byte.
      const bool piece = !special && type != GgufTokenType::kByte && !text.empty();
      entries.push_back({text, !text.empty(), special, piece});
      spellings_.push_back(silent    ? Spelling::kSilent
                           : literal ? Spelling::kLiteral
                                     : Spelling::kDecoded);
      if (literal && !text.empty()) {
        AddedToken& token = added.emplace_back();
        token.id = static_cast<int32_t>(i);
        token.content = text;
        token.special = special;
      }
    }
    absl::StatusOr<Vocabulary> vocabulary = Vocabulary::Create(entries);
    if (!vocabulary.ok()) return Invalid(kTokensKey, StrCat(vocabulary.status().message()));
    model_ = std::make_shared<Model>(Model{
        std::make_shared<const Vocabulary>(*std::move(vocabulary)),
        AddedTokenMatcher(std::move(added)), AddedTokenMatcher({}), Normalizer(), PreTokenizer(),
        /*text_model=*/nullptr, TokenDecoder::ByteLevel(),
        /*prefix_ids=*/{}, /*suffix_ids=*/{}, /*bytes=*/"", /*begins=*/{}, /*decoded_as=*/{}});
    return absl::OkStatus();
  }

  absl::Status ReadByteLevelBpe() {
    ASSIGN_OR_RETURN(const std::string_view name, file_.String("tokenizer.ggml.pre", "default"));
    absl::StatusOr<GgufPreTokenizer> pre = FindGgufPreTokenizer(name);
    if (!pre.ok())
      return absl::InvalidArgumentError(StrCat(file_.origin(), ": ", pre.status().message()));
    ASSIGN_OR_RETURN(model_->pre_tokenizer, PreTokenizer::ByteLevelSplits(pre->patterns));
    add_bos_ = pre->add_bos;
    if (!file_.Has(kMergesKey)) return Invalid(kMergesKey, "missing");
    ASSIGN_OR_RETURN(const auto merges, file_.Strings(kMergesKey));
    MergeTable::Builder builder(*model_->vocabulary, kMergesKey, merges.size());
    for (const std::string_view merge : merges) {
      const size_t space = std::min(merge.find(' ', 1), merge.size());
      const absl::Status added =
          builder.Add(merge.substr(0, space), merge.substr(std::min(space + 1, merge.size())));
      if (!added.ok()) {
        return absl::InvalidArgumentError(StrCat(file_.origin(), ": ", added.message()));
      }
    }
    absl::StatusOr<std::unique_ptr<ByteLevelBpe>> bpe =
        ByteLevelBpe::Create(model_->vocabulary, std::move(builder).Build(), pre->ignore_merges);
    if (!bpe.ok()) return Invalid(kTokensKey, StrCat(bpe.status().message()));
    model_->text_model = *std::move(bpe);
    return absl::OkStatus();
  }

  absl::Status ReadScoredBpe() {
    ASSIGN_OR_RETURN(const bool prefix, file_.Bool("tokenizer.ggml.add_space_prefix", true));
    model_->normalizer = Normalizer::Spaces(prefix);
    model_->decoder = TokenDecoder::SentencePiece(prefix ? 1 : 0);
    add_bos_ = true;
    ASSIGN_OR_RETURN(const std::vector<double> scores, Scores());
    absl::StatusOr<std::unique_ptr<ScoredBpe>> bpe =
        ScoredBpe::Create(model_->vocabulary, {scores.begin(), scores.end()});
    if (!bpe.ok()) return Invalid(kTokensKey, StrCat(bpe.status().message()));
    model_->text_model = *std::move(bpe);
    return absl::OkStatus();
  }

  absl::Status ReadUnigram() {
    ASSIGN_OR_RETURN(const bool prefix, file_.Bool("tokenizer.ggml.add_space_prefix", false));
    ASSIGN_OR_RETURN(const bool merge,
                     file_.Bool("tokenizer.ggml.remove_extra_whitespaces", false));
    Normalizer spaces = merge ? Normalizer::MergedSpaces() : Normalizer::Spaces(prefix);
    ASSIGN_OR_RETURN(model_->normalizer, AfterCharsmap(std::move(spaces)));
    model_->decoder = TokenDecoder::SentencePiece(prefix || merge ? 1 : 0);
    add_eos_ = true;
    ASSIGN_OR_RETURN(const std::vector<double> scores, Scores());
    // SentencePiece has tokens for bytes in models that fall back to them, and only there.
    const bool bytes = std::find(tokens_.types.begin(), tokens_.types.end(),
                                 GgufTokenType::kByte) != tokens_.types.end();
    absl::StatusOr<std::unique_ptr<Unigram>> unigram =
        Unigram::Create(model_->vocabulary, {scores.begin(), scores.end()},
                        {.unknown_id = tokens_.unknown_id, .byte_fallback = bytes});
    if (!unigram.ok()) return Invalid(kTokensKey, StrCat(unigram.status().message()));
    model_->text_model = *std::move(unigram);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<double>> Scores() const {
    ASSIGN_OR_RETURN(const std::vector<double> scores, file_.Reals(kScoresKey));
    if (scores.size() != tokens_.texts.size()) {
      return Invalid(kScoresKey, StrCat(scores.size(), " entries, but ", kTokensKey, " has ",
                                        tokens_.texts.size()));
    }
    return scores;
  }

  absl::StatusOr<Normalizer> AfterCharsmap(Normalizer spaces) const {
    ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, file_.Wholes(kCharsmapKey));
    if (numbers.empty()) return spaces;
    std::string blob;
    blob.reserve(numbers.size());
    for (const int64_t number : numbers) blob.push_back(static_cast<char>(number));
    absl::StatusOr<Charsmap> charsmap = Charsmap::Create(blob);
    if (!charsmap.ok()) return Invalid(kCharsmapKey, StrCat(charsmap.status().message()));
    return std::move(spaces).After(*std::move(charsmap));
  }

  // What is put around a text.
  absl::Status ReadEnds() {
    ASSIGN_OR_RETURN(const bool bos, file_.Bool("tokenizer.ggml.add_bos_token", add_bos_));
    ASSIGN_OR_RETURN(const bool eos, file_.Bool("tokenizer.ggml.add_eos_token", add_eos_));
    if (bos && tokens_.bos_id < 0) return Invalid(kBosKey, "missing, but one is to be added");
    if (eos && tokens_.eos_id < 0) return Invalid(kEosKey, "missing, but one is to be added");
    if (bos) model_->prefix_ids.push_back(tokens_.bos_id);
    if (eos) model_->suffix_ids.push_back(tokens_.eos_id);
    return absl::OkStatus();
  }

  const GgufFile& file_;
  const GgufTokens& tokens_;
  std::vector<Spelling> spellings_;
  // Where the file does not say.
  bool add_bos_ = false;
  bool add_eos_ = false;
  std::shared_ptr<Model> model_;
};

absl::StatusOr<Tokenizer> Tokenizer::FromGguf(const GgufFile& file, const GgufTokens& tokens) {
  return GgufReader::Run(file, tokens);
}

}  // namespace trireme
