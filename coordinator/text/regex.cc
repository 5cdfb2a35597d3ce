#include "coordinator/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "coordinator/text/strings.h"

namespace trireme {
namespace {

constexpr uint32_t kMatchLimit = 20'000'000;  // backtracking steps of one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kPatternBytesMax = 64 * 1024;

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>> code;
  MatchContext context;
  bool jit = false;
};

absl::StatusOr<Regex> Regex::CompilePcre(const std::string& pattern, std::string_view original) {
  CompileContext compile_context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(compile_context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(compile_context.get(), 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto result = std::make_shared<Code>();
  // Multiline: in Oniguruma ^ and $ are always the borders of lines.
  result->code.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, compile_context.get()));
  if (result->code == nullptr) {
    return absl::InvalidArgumentError(StrCat("regex \"", original, "\": ", ErrorText(error)));
  }
  result->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(result->context.get(), kMatchLimit);
  pcre2_set_heap_limit(result->context.get(), kHeapLimitKib);
  result->jit = pcre2_jit_compile(result->code.get(), PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::move(result));
}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(
        StrCat("regex of ", pattern.size(), " bytes, more than ", kPatternBytesMax));
  }
  ASSIGN_OR_RETURN(const std::string translated, OnigurumaToPcre(pattern));
  return CompilePcre(translated, pattern);
}

absl::StatusOr<Regex> Regex::Literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    const bool word = byte >= 0x80 || absl::ascii_isalnum(byte);
    if (!word) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return CompilePcre(pattern, text);
}

absl::StatusOr<std::vector<std::pair<size_t, size_t>>> Regex::FindAll(std::string_view text) const {
  MatchData data(pcre2_match_data_create(1, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const pcre2_code* code = code_->code.get();
  pcre2_match_context* context = code_->context.get();
  constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK;
  std::vector<std::pair<size_t, size_t>> matches;
  std::optional<size_t> last_end;
  for (size_t pos = 0; pos <= text.size();) {
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (code_->jit) {
      rc = pcre2_jit_match(code, subject, text.size(), pos, kOptions, data.get(), context);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter uses the heap
      rc = pcre2_match(code, subject, text.size(), pos, kOptions | PCRE2_NO_JIT, data.get(),
                       context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) return absl::ResourceExhaustedError(StrCat("regex: ", ErrorText(rc)));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    const size_t begin = range[0];
    const size_t end = range[1];
    if (end < begin) return absl::InvalidArgumentError("regex: a match ends before it begins");
    if (begin == end && last_end == end) {
      if (pos >= text.size()) break;
      pos = end + 1;  // to the next character
      while (pos < text.size() && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80) ++pos;
      continue;
    }
    matches.emplace_back(begin, end);
    last_end = end;
    pos = end;
  }
  return matches;
}

}  // namespace trireme
