#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme::jinja {

enum class TokenKind {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // data, name, operator, or the value of a string
  int64_t integer = 0;
  double number = 0;
};

// The tokens of a template, with trim_blocks and lstrip_blocks on as transformers sets them.
// Comments and raw blocks are resolved here. Follows the rules of Jinja2 3.1's lexer. Errors are
// InvalidArgument and name the line. `source` must be UTF-8.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// "line N: message" as an InvalidArgument.
absl::Status ErrorAt(int line, std::string_view message);

}  // namespace trireme::jinja
