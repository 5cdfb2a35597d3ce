#include "coordinator/text/jinja/expression_parser.h"

#include "base/status_macros.h"

namespace trireme::jinja {
namespace {

constexpr int kNestingMax = 60;     // of brackets and the like
constexpr int kTreeDepthMax = 120;  // also of chains: a + b + c + …

constexpr std::string_view kComparisons[] = {"==", "!=", "<=", ">=", "<", ">"};

}  // namespace

// Counts one level of recursion while it lives.
class ExpressionParser::Nesting {
 public:
  explicit Nesting(int& depth) : depth_(depth) { ++depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  ~Nesting() { --depth_; }

 private:
  int& depth_;
};

bool ExpressionParser::SkipOperator(std::string_view text) {
  if (!AtOperator(text)) return false;
  Next();
  return true;
}

bool ExpressionParser::SkipName(std::string_view text) {
  if (!AtName(text)) return false;
  Next();
  return true;
}

absl::Status ExpressionParser::ExpectKind(TokenKind kind, std::string_view shown) {
  if (Current().kind != kind) {
    return Error(StrCat("expected '", shown, "', got '", Current().text, "'"));
  }
  Next();
  return absl::OkStatus();
}

absl::Status ExpressionParser::ExpectOperator(std::string_view text) {
  if (SkipOperator(text)) return absl::OkStatus();
  return Error(StrCat("expected '", text, "', got '", Current().text, "'"));
}

ExprPtr ExpressionParser::New(ExprKind kind, int line) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionParser::Made ExpressionParser::Finish(ExprPtr node) const {
  int depth = 0;
  const auto add = [&](const ExprPtr& child) {
    if (child != nullptr) depth = std::max(depth, child->depth);
  };
  for (const ExprPtr& child : node->operands) add(child);
  for (const ExprPtr& child : node->call.positional) add(child);
  for (const auto& argument : node->call.named) add(argument.second);
  add(node->call.star);
  add(node->call.double_star);
  node->depth = depth + 1;
  if (node->depth > kTreeDepthMax) return Error("an expression is nested too deeply");
  return node;
}

ExpressionParser::Made ExpressionParser::Binary(ExprKind kind, ExprPtr left, ExprPtr right,
                                                std::string op) const {
  ExprPtr node = New(kind, left->line);
  node->text = std::move(op);
  node->operands.push_back(std::move(left));
  node->operands.push_back(std::move(right));
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::Expression(bool conditional) {
  const Nesting nesting(nesting_);
  if (nesting_ > kNestingMax) return Error("an expression is nested too deeply");
  ASSIGN_OR_RETURN(ExprPtr node, Or());
  while (conditional && AtName("if")) {
    ExprPtr choice = New(ExprKind::kConditional, Current().line);
    Next();
    ASSIGN_OR_RETURN(ExprPtr test, Or());
    ExprPtr other;
    if (SkipName("else")) {
      ASSIGN_OR_RETURN(other, Expression());
    }
    choice->operands.push_back(std::move(node));
    choice->operands.push_back(std::move(test));
    choice->operands.push_back(std::move(other));
    ASSIGN_OR_RETURN(node, Finish(std::move(choice)));
  }
  return node;
}

bool ExpressionParser::AtTupleEnd() const {
  return Current().kind == TokenKind::kVariableEnd || Current().kind == TokenKind::kBlockEnd ||
         AtOperator(")") || AtName("in") || AtName("recursive");
}

ExpressionParser::Made ExpressionParser::TupleExpression(bool conditional, bool parentheses) {
  ExprPtr tuple = New(ExprKind::kTuple, Current().line);
  bool is_tuple = false;
  while (true) {
    if (!tuple->operands.empty()) RETURN_IF_ERROR(ExpectOperator(","));
    if (AtTupleEnd()) break;
    ASSIGN_OR_RETURN(ExprPtr item, Expression(conditional));
    tuple->operands.push_back(std::move(item));
    if (!AtOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !tuple->operands.empty()) return std::move(tuple->operands[0]);
  if (!is_tuple && !parentheses) {
    return Error(StrCat("expected an expression, got '", Current().text, "'"));
  }
  return Finish(std::move(tuple));
}

ExpressionParser::Made ExpressionParser::Or() {
  ASSIGN_OR_RETURN(ExprPtr node, And());
  while (SkipName("or")) {
    ASSIGN_OR_RETURN(ExprPtr right, And());
    ASSIGN_OR_RETURN(node, Binary(ExprKind::kOr, std::move(node), std::move(right)));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::And() {
  ASSIGN_OR_RETURN(ExprPtr node, Not());
  while (SkipName("and")) {
    ASSIGN_OR_RETURN(ExprPtr right, Not());
    ASSIGN_OR_RETURN(node, Binary(ExprKind::kAnd, std::move(node), std::move(right)));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Not() {
  if (!AtName("not")) return Compare();
  const Nesting nesting(nesting_);
  if (nesting_ > kNestingMax) return Error("an expression is nested too deeply");
  ExprPtr node = New(ExprKind::kUnary, Current().line);
  node->text = "not";
  Next();
  ASSIGN_OR_RETURN(ExprPtr operand, Not());
  node->operands.push_back(std::move(operand));
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::Compare() {
  ASSIGN_OR_RETURN(ExprPtr first, Sum());
  ExprPtr node = New(ExprKind::kCompare, first->line);
  node->operands.push_back(std::move(first));
  while (true) {
    std::string op;
    for (const std::string_view comparison : kComparisons) {
      if (AtOperator(comparison)) op = comparison;
    }
    if (AtName("in")) op = "in";
    if (AtName("not") && Look().kind == TokenKind::kName && Look().text == "in") {
      op = "not in";
      Next();
    }
    if (op.empty()) break;
    Next();
    ASSIGN_OR_RETURN(ExprPtr operand, Sum());
    node->operators.push_back(std::move(op));
    node->operands.push_back(std::move(operand));
  }
  if (node->operators.empty()) return std::move(node->operands[0]);
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::Sum() {
  ASSIGN_OR_RETURN(ExprPtr node, Concat());
  while (AtOperator("+") || AtOperator("-")) {
    std::string op = Current().text;
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, Concat());
    ASSIGN_OR_RETURN(node,
                     Binary(ExprKind::kBinary, std::move(node), std::move(right), std::move(op)));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Concat() {
  ASSIGN_OR_RETURN(ExprPtr first, Product());
  if (!AtOperator("~")) return first;
  ExprPtr node = New(ExprKind::kConcat, first->line);
  node->operands.push_back(std::move(first));
  while (SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr operand, Product());
    node->operands.push_back(std::move(operand));
  }
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::Product() {
  ASSIGN_OR_RETURN(ExprPtr node, Power());
  while (AtOperator("*") || AtOperator("/") || AtOperator("//") || AtOperator("%")) {
    std::string op = Current().text;
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, Power());
    ASSIGN_OR_RETURN(node,
                     Binary(ExprKind::kBinary, std::move(node), std::move(right), std::move(op)));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Power() {
  ASSIGN_OR_RETURN(ExprPtr node, Unary());
  while (SkipOperator("**")) {
    ASSIGN_OR_RETURN(ExprPtr right, Unary());
    ASSIGN_OR_RETURN(node, Binary(ExprKind::kBinary, std::move(node), std::move(right), "**"));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Unary(bool with_filter) {
  const Nesting nesting(nesting_);
  if (nesting_ > kNestingMax) return Error("an expression is nested too deeply");
  ExprPtr node;
  if (AtOperator("-") || AtOperator("+")) {
    ExprPtr unary = New(ExprKind::kUnary, Current().line);
    unary->text = Current().text;
    Next();
    ASSIGN_OR_RETURN(ExprPtr operand, Unary(false));
    unary->operands.push_back(std::move(operand));
    ASSIGN_OR_RETURN(node, Finish(std::move(unary)));
  } else {
    ASSIGN_OR_RETURN(node, Primary());
  }
  ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
  return with_filter ? FilterOrTest(std::move(node)) : Made(std::move(node));
}

ExpressionParser::Made ExpressionParser::Primary() {
  const Token token = Current();
  ExprPtr node = New(ExprKind::kConstant, token.line);
  if (token.kind == TokenKind::kName) {
    Next();
    if (token.text == "true" || token.text == "True") {
      node->constant = Value(true);
    } else if (token.text == "false" || token.text == "False") {
      node->constant = Value(false);
    } else if (token.text == "none" || token.text == "None") {
      node->constant = Value(None{});
    } else {
      node->kind = ExprKind::kName;
      node->text = token.text;
    }
    return node;
  }
  if (token.kind == TokenKind::kString) {
    std::string text;
    for (; Current().kind == TokenKind::kString; Next()) text += Current().text;
    node->constant = Value(std::move(text));
    return node;
  }
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) {
    Next();
    node->constant = token.kind == TokenKind::kInteger ? Value(token.integer) : Value(token.number);
    return node;
  }
  if (AtOperator("[")) return List();
  if (AtOperator("{")) return DictLiteral();
  if (!SkipOperator("(")) return Error(StrCat("unexpected '", token.text, "'"));
  ASSIGN_OR_RETURN(node, TupleExpression(true, /*parentheses=*/true));
  RETURN_IF_ERROR(ExpectOperator(")"));
  return node;
}

ExpressionParser::Made ExpressionParser::List() {
  ExprPtr node = New(ExprKind::kList, Current().line);
  Next();
  while (!AtOperator("]")) {
    if (!node->operands.empty()) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AtOperator("]")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, Expression());
    node->operands.push_back(std::move(item));
  }
  Next();
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::DictLiteral() {
  ExprPtr node = New(ExprKind::kDict, Current().line);
  Next();
  while (!AtOperator("}")) {
    if (!node->operands.empty()) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AtOperator("}")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr key, Expression());
    RETURN_IF_ERROR(ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, Expression());
    node->operands.push_back(std::move(key));
    node->operands.push_back(std::move(value));
  }
  Next();
  return Finish(std::move(node));
}

ExpressionParser::Made ExpressionParser::Postfix(ExprPtr node) {
  while (true) {
    if (AtOperator(".") || AtOperator("[")) {
      ASSIGN_OR_RETURN(node, Subscript(std::move(node)));
    } else if (AtOperator("(")) {
      ASSIGN_OR_RETURN(node, Call(std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Made ExpressionParser::FilterOrTest(ExprPtr node) {
  while (true) {
    if (AtOperator("|")) {
      ASSIGN_OR_RETURN(node, Filters(std::move(node)));
    } else if (AtName("is")) {
      ASSIGN_OR_RETURN(node, Test(std::move(node)));
    } else if (AtOperator("(")) {
      ASSIGN_OR_RETURN(node, Call(std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Made ExpressionParser::Subscript(ExprPtr node) {
  const int line = Current().line;
  if (SkipOperator(".")) {
    const Token token = Current();
    Next();
    if (token.kind == TokenKind::kName) {
      ExprPtr attribute = New(ExprKind::kAttribute, line);
      attribute->text = token.text;
      attribute->operands.push_back(std::move(node));
      return Finish(std::move(attribute));
    }
    if (token.kind != TokenKind::kInteger) return ErrorAt(line, "expected name or number");
    ExprPtr index = New(ExprKind::kConstant, line);
    index->constant = Value(token.integer);
    return Binary(ExprKind::kItem, std::move(node), std::move(index));
  }
  Next();  // [
  ASSIGN_OR_RETURN(node, SubscriptArgument(std::move(node), line));
  RETURN_IF_ERROR(ExpectOperator("]"));
  return node;
}

ExpressionParser::Made ExpressionParser::SubscriptArgument(ExprPtr node, int line) {
  ExprPtr slice = New(ExprKind::kSlice, line);
  slice->operands.push_back(std::move(node));
  const auto at_end = [&] { return AtOperator("]") || AtOperator(":"); };
  for (int i = 0; i < 3; ++i) {
    ExprPtr bound;
    if (!at_end()) {
      ASSIGN_OR_RETURN(bound, Expression());
      if (i == 0 && !AtOperator(":")) {
        return Binary(ExprKind::kItem, std::move(slice->operands[0]), std::move(bound));
      }
    }
    if (i == 0 && !AtOperator(":")) return Error("expected a subscript");
    slice->operands.push_back(std::move(bound));
    if (i < 2 && !SkipOperator(":")) {
      while (slice->operands.size() < 4) slice->operands.push_back(nullptr);
      break;
    }
  }
  return Finish(std::move(slice));
}

absl::Status ExpressionParser::Argument(CallArguments& call) {
  if (SkipOperator("*")) {
    if (call.star != nullptr || call.double_star != nullptr) return Error("invalid arguments");
    ASSIGN_OR_RETURN(call.star, Expression());
  } else if (SkipOperator("**")) {
    if (call.double_star != nullptr) return Error("invalid arguments");
    ASSIGN_OR_RETURN(call.double_star, Expression());
  } else if (Current().kind == TokenKind::kName && Look().kind == TokenKind::kOperator &&
             Look().text == "=") {
    if (call.double_star != nullptr) return Error("invalid arguments");
    std::string name = Current().text;
    Next();
    Next();
    ASSIGN_OR_RETURN(ExprPtr value, Expression());
    call.named.emplace_back(std::move(name), std::move(value));
  } else {
    if (call.star != nullptr || call.double_star != nullptr || !call.named.empty()) {
      return Error("a positional argument follows another kind");
    }
    ASSIGN_OR_RETURN(ExprPtr value, Expression());
    call.positional.push_back(std::move(value));
  }
  return absl::OkStatus();
}

absl::Status ExpressionParser::ArgumentList(CallArguments& call) {
  RETURN_IF_ERROR(ExpectOperator("("));
  bool first = true;
  while (!AtOperator(")")) {
    if (!first) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AtOperator(")")) break;
    }
    first = false;
    RETURN_IF_ERROR(Argument(call));
  }
  Next();
  return absl::OkStatus();
}

ExpressionParser::Made ExpressionParser::Call(ExprPtr node) {
  ExprPtr call = New(ExprKind::kCall, Current().line);
  call->operands.push_back(std::move(node));
  RETURN_IF_ERROR(ArgumentList(call->call));
  return Finish(std::move(call));
}

ExpressionParser::Made ExpressionParser::Filters(ExprPtr node, bool first_inline) {
  while (first_inline || SkipOperator("|")) {
    first_inline = false;
    if (Current().kind != TokenKind::kName) return Error("expected a filter's name");
    ExprPtr filter = New(ExprKind::kFilter, Current().line);
    filter->text = Current().text;
    Next();
    if (AtOperator("(")) RETURN_IF_ERROR(ArgumentList(filter->call));
    filter->operands.push_back(std::move(node));
    ASSIGN_OR_RETURN(node, Finish(std::move(filter)));
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Test(ExprPtr node) {
  const int line = Current().line;
  Next();  // is
  const bool negated = SkipName("not");
  if (Current().kind != TokenKind::kName) return Error("expected a test's name");
  ExprPtr test = New(ExprKind::kTest, line);
  test->text = Current().text;
  Next();
  test->operands.push_back(std::move(node));
  const TokenKind kind = Current().kind;
  const bool operand = kind == TokenKind::kName || kind == TokenKind::kString ||
                       kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
                       AtOperator("[") || AtOperator("{");
  if (AtOperator("(")) {
    RETURN_IF_ERROR(ArgumentList(test->call));
  } else if (operand && !AtName("else") && !AtName("or") && !AtName("and")) {
    if (AtName("is")) return Error("You cannot chain multiple tests with is");
    ASSIGN_OR_RETURN(ExprPtr argument, Primary());
    ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    test->call.positional.push_back(std::move(argument));
  }
  ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  ExprPtr negation = New(ExprKind::kUnary, line);
  negation->text = "not";
  negation->operands.push_back(std::move(test));
  return Finish(std::move(negation));
}

ExpressionParser::Made ExpressionParser::TargetName(bool with_namespace) {
  if (SkipOperator("(")) {
    const Nesting nesting(nesting_);
    if (nesting_ > kNestingMax) return Error("an expression is nested too deeply");
    ASSIGN_OR_RETURN(ExprPtr node, Target(with_namespace));
    RETURN_IF_ERROR(ExpectOperator(")"));
    return node;
  }
  const std::string& name = Current().text;
  if (Current().kind != TokenKind::kName || name == "true" || name == "false" || name == "none" ||
      name == "True" || name == "False" || name == "None") {
    return Error(StrCat("can't assign to '", name, "'"));
  }
  ExprPtr node = New(ExprKind::kName, Current().line);
  node->text = name;
  Next();
  if (with_namespace && SkipOperator(".")) {
    if (Current().kind != TokenKind::kName) return Error("expected a name");
    node->kind = ExprKind::kNamespace;
    node->attribute = Current().text;
    Next();
  }
  return node;
}

ExpressionParser::Made ExpressionParser::Target(bool with_namespace) {
  ExprPtr tuple = New(ExprKind::kTuple, Current().line);
  ASSIGN_OR_RETURN(ExprPtr first, TargetName(with_namespace));
  if (!AtOperator(",")) return first;
  tuple->operands.push_back(std::move(first));
  while (SkipOperator(",")) {
    if (AtTupleEnd() || AtOperator("=")) break;
    ASSIGN_OR_RETURN(ExprPtr next, TargetName(with_namespace));
    tuple->operands.push_back(std::move(next));
  }
  return Finish(std::move(tuple));
}

}  // namespace trireme::jinja
