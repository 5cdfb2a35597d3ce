#pragma once

namespace trireme {

// Character properties (Unicode 15).

// The White_Space property: what \s means in a pre-tokenizer and for lstrip/rstrip of added tokens.
bool IsWhiteSpace(char32_t c);

// General categories Nd, Nl and No: what the Digits pre-tokenizer splits at.
bool IsNumeric(char32_t c);

// Alphabetic, mark, decimal digit, connector or joiner: \w of UTS #18, for single_word added
// tokens.
bool IsWordCharacter(char32_t c);

// Whether Python's str.isprintable() holds, so that repr() shows the character itself.
bool IsPrintable(char32_t c);

}  // namespace trireme
