#include "coordinator/text/gguf_pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "coordinator/text/strings.h"

namespace trireme {
namespace {

// The patterns are those of the models' own tokenizer.json, but for the contractions, which these
// files' reader has always matched in ASCII only: 's and 'S, not 'ſ.
#define TRIREME_CONTRACTIONS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define TRIREME_SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define TRIREME_CASED_WORD(suffix)                                                         \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)" suffix \
  R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)" suffix

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
constexpr std::string_view kHan = "[一-龥ࠀ-一가-퟿]+";

constexpr std::array kGpt2Patterns = {kGpt2};
constexpr std::array<std::string_view, 4> kDefaultPatterns = {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2,
                                                              R"(\p{N}+)", "[0-9][0-9][0-9]"};
constexpr std::array<std::string_view, 3> kFalconPatterns = {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2,
                                                             "[0-9][0-9][0-9]"};
constexpr std::array<std::string_view, 2> kDigitPatterns = {R"(\p{N})", kGpt2};
constexpr std::array<std::string_view, 1> kLlama3Patterns = {
    TRIREME_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" TRIREME_SPACES};
constexpr std::array<std::string_view, 1> kQwen2Patterns = {
    TRIREME_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" TRIREME_SPACES};
constexpr std::array<std::string_view, 1> kQwen35Patterns = {
    TRIREME_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" TRIREME_SPACES};
constexpr std::array<std::string_view, 1> kTekkenPatterns = {
    TRIREME_CASED_WORD("") R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" TRIREME_SPACES};
constexpr std::array<std::string_view, 1> kGpt4oPatterns = {TRIREME_CASED_WORD(
    TRIREME_CONTRACTIONS "?") R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" TRIREME_SPACES};
constexpr std::array<std::string_view, 6> kDeepSeekLlmPatterns = {
    "[\r\n]",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-"
    "ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-"
    "Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-"
    "ꞎꭰ-"
    "ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]"
    "+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    kHan,
    R"(\p{N}+)"};
constexpr std::array<std::string_view, 5> kDeepSeekCoderPatterns = {
    "[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kHan, R"(\p{N})"};
constexpr std::array<std::string_view, 3> kDeepSeekV3Patterns = {
    R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    R"(|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" TRIREME_SPACES};

#undef TRIREME_CONTRACTIONS
#undef TRIREME_SPACES
#undef TRIREME_CASED_WORD

struct Entry {
  std::string_view name;
  GgufPreTokenizer value;
};

constexpr Entry kEntries[] = {
    {"default", {kDefaultPatterns}},
    {"gpt-2", {kGpt2Patterns}},
    {"phi-2", {kGpt2Patterns}},
    {"mpt", {kGpt2Patterns}},
    {"olmo", {kGpt2Patterns}},
    {"jais", {kGpt2Patterns}},
    {"trillion", {kGpt2Patterns}},
    {"exaone4", {kGpt2Patterns}},
    {"gigachat", {kGpt2Patterns}},
    {"falcon", {kFalconPatterns}},
    {"smollm", {kDigitPatterns}},
    {"starcoder", {kDigitPatterns}},
    {"refact", {kDigitPatterns}},
    {"command-r", {kDigitPatterns}},
    {"codeshell", {kDigitPatterns}},
    {"exaone", {kDigitPatterns}},
    {"minerva-7b", {kDigitPatterns}},
    {"llama-bpe", {kLlama3Patterns, true, true}},
    {"llama3", {kLlama3Patterns, true, true}},
    {"llama-v3", {kLlama3Patterns, true, true}},
    {"falcon3", {kLlama3Patterns, true, true}},
    {"dbrx", {kLlama3Patterns}},
    {"smaug-bpe", {kLlama3Patterns}},
    {"chatglm-bpe", {kLlama3Patterns}},
    {"glm4", {kLlama3Patterns, true}},
    {"qwen2", {kQwen2Patterns}},
    {"deepseek-r1-qwen", {kQwen2Patterns}},
    {"stablelm2", {kQwen2Patterns}},
    {"hunyuan", {kQwen2Patterns}},
    {"megrez", {kQwen2Patterns}},
    {"qwen35", {kQwen35Patterns}},
    {"tekken", {kTekkenPatterns, true, true}},
    {"gpt-4o", {kGpt4oPatterns}},
    {"llama4", {kGpt4oPatterns}},
    {"deepseek-llm", {kDeepSeekLlmPatterns}},
    {"deepseek-coder", {kDeepSeekCoderPatterns}},
    {"deepseek-v3", {kDeepSeekV3Patterns}},
    {"hunyuan-dense", {kDeepSeekV3Patterns}},
};

}  // namespace

absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kEntries), std::end(kEntries),
                                         [&](const Entry& entry) { return entry.name == name; });
  if (found == std::end(kEntries)) {
    return absl::InvalidArgumentError(StrCat("unsupported: tokenizer.ggml.pre \"", name, "\""));
  }
  return found->value;
}

}  // namespace trireme
