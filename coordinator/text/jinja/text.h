#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace trireme::jinja {

// Python's str, over valid UTF-8.

// str.isspace() of one character: White_Space and the separators U+001C to U+001F.
bool IsPythonSpace(char32_t c);

// Bytes of white space at the beginning and at the end.
size_t LeadingSpace(std::string_view text);
size_t TrailingSpace(std::string_view text);

// str.strip(chars): `chars` null means white space.
std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right);

// Case mapping, one character at a time but for ß, whose upper case is SS.
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);  // first upper, rest lower
std::string Title(std::string_view text);       // str.title(): every word

bool IsCased(char32_t c);
bool IsLetter(char32_t c);

// str.splitlines().
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends = false);

}  // namespace trireme::jinja
