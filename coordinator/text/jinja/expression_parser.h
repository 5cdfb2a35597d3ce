#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/jinja/ast.h"
#include "coordinator/text/jinja/lexer.h"

namespace trireme::jinja {

// The expressions of a template, by recursive descent in the order of Jinja2's own grammar:
// conditional, or, and, not, comparison, +-, ~, */, **, unary, postfix, filter and test. The
// statements' parser builds on it. Depth is bounded, of the recursion and of the tree.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  using Made = absl::StatusOr<ExprPtr>;

  const Token& Current() const { return tokens_[pos_]; }
  const Token& Look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  void Next() { pos_ = std::min(pos_ + 1, tokens_.size() - 1); }
  bool AtOperator(std::string_view text) const {
    return Current().kind == TokenKind::kOperator && Current().text == text;
  }
  bool AtName(std::string_view text) const {
    return Current().kind == TokenKind::kName && Current().text == text;
  }
  bool SkipOperator(std::string_view text);
  bool SkipName(std::string_view text);
  absl::Status ExpectKind(TokenKind kind, std::string_view shown);
  absl::Status ExpectOperator(std::string_view text);
  absl::Status Error(std::string_view message) const { return ErrorAt(Current().line, message); }

  Made Expression(bool conditional = true);
  // One expression, or several with commas between: a tuple.
  Made TupleExpression(bool conditional = true, bool parentheses = false);
  // What can be assigned to: a name, names with commas between or, with_namespace, ns.attribute.
  Made Target(bool with_namespace);
  // `| a | b(c)`. With a null node the filters of a block; `first_inline`: no | before the first.
  Made Filters(ExprPtr node, bool first_inline = false);

 private:
  class Nesting;
  static ExprPtr New(ExprKind kind, int line);
  // Sets the depth of a finished node, and refuses one that is too deep.
  Made Finish(ExprPtr node) const;
  Made Binary(ExprKind kind, ExprPtr left, ExprPtr right, std::string op = "") const;
  bool AtTupleEnd() const;

  Made Or();
  Made And();
  Made Not();
  Made Compare();
  Made Sum();
  Made Concat();
  Made Product();
  Made Power();
  Made Unary(bool with_filter = true);
  Made Primary();
  Made List();
  Made DictLiteral();
  Made Postfix(ExprPtr node);
  Made FilterOrTest(ExprPtr node);
  Made Subscript(ExprPtr node);
  Made SubscriptArgument(ExprPtr node, int line);
  Made Call(ExprPtr node);
  Made Test(ExprPtr node);
  Made TargetName(bool with_namespace);
  absl::Status ArgumentList(CallArguments& call);
  absl::Status Argument(CallArguments& call);

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
};

}  // namespace trireme::jinja
