#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace trireme {

// UTF-8 reading and writing (Unicode 15, chapter 3.9). All functions are pure and never fail: what
// is not UTF-8 is reported or replaced by U+FFFD, one for each "maximal subpart of an ill-formed
// subsequence", as Python's bytes.decode("utf-8", "replace") and Rust's from_utf8_lossy do.

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

enum class Utf8Kind {
  kValid,       // `code_point` is what the bytes say
  kInvalid,     // `bytes` bytes stand for one U+FFFD
  kIncomplete,  // the text ends inside a character: more bytes could make it valid
};

struct Utf8Step {
  char32_t code_point = 0;
  size_t bytes = 0;
  Utf8Kind kind = Utf8Kind::kValid;
};

// Reads the character that begins at `text[0]`; `text` must not be empty.
Utf8Step NextUtf8(std::string_view text);

// Appends a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string& out);

bool IsValidUtf8(std::string_view text);

// The text with every ill-formed part replaced by U+FFFD. Valid text comes back unchanged.
std::string ReplaceInvalidUtf8(std::string_view text);

// Number of code points of valid UTF-8 text.
size_t Utf8Length(std::string_view text);

// The byte offset of code point number `index` of valid text, or text.size() past its end.
size_t Utf8Offset(std::string_view text, size_t index);

// The byte offset of the last character of valid text that is not empty.
size_t LastCharacter(std::string_view text);

// Code points of the text; ill-formed parts become U+FFFD.
std::u32string ToUtf32(std::string_view text);
std::string ToUtf8(std::u32string_view text);

}  // namespace trireme
