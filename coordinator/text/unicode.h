#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace trireme {

// Character properties (Unicode 15).

// The White_Space property: what \s means in a pre-tokenizer and for lstrip/rstrip of added tokens.
bool IsWhiteSpace(char32_t c);

// General categories Nd, Nl and No: what the Digits pre-tokenizer splits at.
bool IsNumeric(char32_t c);

// Alphabetic, mark, decimal digit, connector or joiner: \w of UTS #18, for single_word added
// tokens.
bool IsWordCharacter(char32_t c);

// ASCII punctuation and symbols, and general categories P*: what the Punctuation pre-tokenizer
// splits at.
bool IsPunctuation(char32_t c);

// General categories M*: what StripAccents removes.
bool IsMark(char32_t c);

// Appends the lower case of one character, without regard to its neighbours.
void AppendLowercase(char32_t c, std::string& out);

// How many bytes of white space valid text begins with, and where that at its end begins.
size_t LeadingWhiteSpaceBytes(std::string_view text);
size_t TrailingWhiteSpaceBegin(std::string_view text);

// Whether Python's str.isprintable() holds, so that repr() shows the character itself.
bool IsPrintable(char32_t c);

}  // namespace trireme
