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
constexpr std::string_view kHan = "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+";

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
    "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}"
    "\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-"
    "\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-"
    "\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}"
    "\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}"
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-"
    "\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}"
    "\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"
    "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-"
    "\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}"
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+",
    "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]"
    "+",
    "\\s+$",
    kHan,
    R"(\p{N}+)"};
constexpr std::array<std::string_view, 5> kDeepSeekCoderPatterns = {
    "[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kHan, R"(\p{N})"};
constexpr std::array<std::string_view, 3> kDeepSeekV3Patterns = {
    R"(\p{N}{1,3})", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
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
