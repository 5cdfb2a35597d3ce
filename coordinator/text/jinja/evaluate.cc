// The expressions of Interpreter.

#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/interpreter.h"
#include "coordinator/text/jinja/lexer.h"
#include "coordinator/text/jinja/markup.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

constexpr int kDepthMax = 300;

// Attributes of Python's mutable types that change them: transformers' sandbox refuses them.
bool IsMutator(const Value& object, std::string_view name) {
  static constexpr std::string_view kList[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  if (object.AsDict() != nullptr) {
    for (const std::string_view mutator : kDict) {
      if (name == mutator) return true;
    }
  }
  const Sequence* sequence = object.AsSequence();
  if (sequence != nullptr && sequence->kind == SequenceKind::kList) {
    for (const std::string_view mutator : kList) {
      if (name == mutator) return true;
    }
  }
  return false;
}

// The attributes of `loop` that are not methods.
Value LoopAttribute(const Loop& loop, std::string_view name) {
  const auto length = static_cast<int64_t>(loop.items->items.size());
  const auto index0 = static_cast<int64_t>(loop.index0);
  if (name == "index0") return Value(index0);
  if (name == "index") return Value(index0 + 1);
  if (name == "revindex") return Value(length - index0);
  if (name == "revindex0") return Value(length - index0 - 1);
  if (name == "first") return Value(index0 == 0);
  if (name == "last") return Value(index0 + 1 == length);
  if (name == "length") return Value(length);
  // Of recursive loops, which are not supported: always the outermost.
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "previtem" && index0 > 0) return loop.items->items[loop.index0 - 1];
  if (name == "nextitem" && index0 + 1 < length) return loop.items->items[loop.index0 + 1];
  return Value::MakeUndefined(StrCat("'loop' has no '", name, "'"));
}

// As Jinja2's errors name an object.
std::string ObjectName(const Value& object) {
  return object.IsNone() ? "None" : StrCat(object.TypeName(), " object");
}

}  // namespace

Result Interpreter::Evaluate(const Expr& expr) {
  ++depth_;
  absl::Status status = budget_.Steps();
  if (depth_ > kDepthMax) status = TypeError("recursion is too deep");
  Result result = status.ok() ? EvaluateNode(expr) : Result(status);
  --depth_;
  if (result.ok()) return result;
  const std::string message(result.status().message());
  // The innermost line is the one to show.
  if (message.rfind("line ", 0) == 0) return result;
  return ErrorAt(expr.line, message);
}

Result Interpreter::EvaluateNode(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
    case ExprKind::kNamespace:
      return Name(expr);
    case ExprKind::kList:
    case ExprKind::kTuple:
      return ListOrTuple(expr);
    case ExprKind::kDict:
      return DictLiteral(expr);
    case ExprKind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.operands[0]));
      return GetAttribute(object, expr.text);
    }
    case ExprKind::kItem: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.operands[0]));
      ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.operands[1]));
      return GetItem(object, key);
    }
    case ExprKind::kSlice:
      return Slice(expr);
    case ExprKind::kCall:
      return CallExpression(expr, Value());
    case ExprKind::kFilter: {
      ASSIGN_OR_RETURN(Value input, Evaluate(*expr.operands[0]));
      ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr.call));
      const BuiltinFunction filter = FindFilter(expr.text);
      if (filter == nullptr) return TypeError(StrCat("unsupported: filter '", expr.text, "'"));
      return filter(*this, input, arguments);
    }
    case ExprKind::kTest:
      return TestExpression(expr);
    case ExprKind::kUnary:
      return Unary(expr);
    case ExprKind::kBinary: {
      ASSIGN_OR_RETURN(const Value a, Evaluate(*expr.operands[0]));
      ASSIGN_OR_RETURN(const Value b, Evaluate(*expr.operands[1]));
      return BinaryOperator(*this, expr.text, a, b);
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      ASSIGN_OR_RETURN(Value left, Evaluate(*expr.operands[0]));
      if (left.Truthy() == (expr.kind == ExprKind::kOr)) return left;
      return Evaluate(*expr.operands[1]);
    }
    case ExprKind::kConcat:
      return Concat(expr);
    case ExprKind::kCompare:
      return Compare(expr);
    case ExprKind::kConditional:
      return Conditional(expr);
  }
  return TypeError("unknown expression");
}

Result Interpreter::Name(const Expr& expr) {
  if (const Value* value = Find(expr.text)) return *value;
  Value global = FindGlobal(expr.text);
  if (!global.IsUndefined()) return global;
  return Value::MakeUndefined(StrCat("'", expr.text, "' is undefined"));
}

Result Interpreter::ListOrTuple(const Expr& expr) {
  std::vector<Value> items;
  for (const ExprPtr& operand : expr.operands) {
    ASSIGN_OR_RETURN(Value item, Evaluate(*operand));
    items.push_back(std::move(item));
  }
  return MakeSequence(budget_, std::move(items),
                      expr.kind == ExprKind::kTuple ? SequenceKind::kTuple : SequenceKind::kList);
}

Result Interpreter::DictLiteral(const Expr& expr) {
  Dict dict;
  for (size_t i = 0; i + 1 < expr.operands.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Evaluate(*expr.operands[i]));
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr.operands[i + 1]));
    if (key.AsDict() != nullptr || (key.AsSequence() != nullptr)) {
      return TypeError(StrCat("unhashable or unsupported key of type '", key.TypeName(), "'"));
    }
    dict.Set(std::move(key), std::move(value));
  }
  return MakeDict(budget_, std::move(dict));
}

Result Interpreter::Slice(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.operands[0]));
  Value bounds[3] = {Value(None{}), Value(None{}), Value(None{})};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.operands[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Evaluate(*expr.operands[i + 1]));
  }
  return SliceValue(budget_, object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const CallArguments& call) {
  Arguments arguments;
  for (const ExprPtr& argument : call.positional) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, argument] : call.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (call.star != nullptr) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*call.star));
    ASSIGN_OR_RETURN(const auto items, Iterate(budget_, value));
    for (Value& item : items->items) arguments.positional.push_back(std::move(item));
  }
  if (call.double_star != nullptr) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*call.double_star));
    if (value.AsDict() == nullptr) return TypeError("argument after ** must be a mapping");
    for (const auto& [key, item] : value.AsDict()->entries) {
      if (key.AsString() == nullptr) return TypeError("keywords must be strings");
      arguments.named.emplace_back(*key.AsString(), item);
    }
  }
  return arguments;
}

Result Interpreter::CallExpression(const Expr& expr, Value caller) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*expr.operands[0]));
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expr.call));
  if (!caller.IsUndefined()) arguments.named.emplace_back("caller", std::move(caller));
  return Call(callee, arguments);
}

Result Interpreter::Call(const Value& callee, const Arguments& arguments) {
  if (callee.IsUndefined()) return TypeError(callee.UndefinedReason());
  const Callable* callable = callee.AsCallable();
  if (callable == nullptr) {
    return TypeError(StrCat("'", callee.TypeName(), "' object is not callable"));
  }
  return callable->call(*this, arguments);
}

// A chain of filters without an input of its own: of a set or filter block.
Result Interpreter::FilterExpression(const Expr& expr, Value input) {
  if (expr.operands[0] != nullptr) {
    ASSIGN_OR_RETURN(input, FilterExpression(*expr.operands[0], std::move(input)));
  }
  const BuiltinFunction filter = FindFilter(expr.text);
  if (filter == nullptr) {
    return ErrorAt(expr.line, StrCat("unsupported: filter '", expr.text, "'"));
  }
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr.call));
  Result result = filter(*this, input, arguments);
  if (result.ok()) return result;
  return ErrorAt(expr.line, std::string(result.status().message()));
}

Result Interpreter::TestExpression(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.operands[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr.call));
  const BuiltinFunction test = FindTest(expr.text);
  if (test == nullptr) return TypeError(StrCat("unsupported: test '", expr.text, "'"));
  return test(*this, value, arguments);
}

Result Interpreter::Unary(const Expr& expr) {
  ASSIGN_OR_RETURN(Value value, Evaluate(*expr.operands[0]));
  if (expr.text == "not") return Value(!value.Truthy());
  if (value.IsUndefined()) return TypeError(value.UndefinedReason());
  if (!value.IsNumber()) {
    return TypeError(
        StrCat("bad operand type for unary ", expr.text, ": '", value.TypeName(), "'"));
  }
  if (expr.text == "-") return BinaryOperator(*this, "-", Value(int64_t{0}), value);
  return BinaryOperator(*this, "+", Value(int64_t{0}), value);
}

Result Interpreter::Concat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& operand : expr.operands) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*operand));
    ASSIGN_OR_RETURN(const std::string piece, ToString(budget_, value));
    text += piece;
  }
  return MakeString(budget_, std::move(text));
}

Result Interpreter::Compare(const Expr& expr) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.operands[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    const std::string& op = expr.operators[i];
    ASSIGN_OR_RETURN(Value right, Evaluate(*expr.operands[i + 1]));
    absl::StatusOr<bool> holds = false;
    bool negate = false;
    if (op == "==" || op == "!=") {
      holds = Equals(budget_, left, right);
      negate = op == "!=";
    } else if (op == "in" || op == "not in") {
      holds = Contains(budget_, right, left);
      negate = op == "not in";
    } else if (op == "<" || op == ">=") {
      holds = Less(budget_, left, right);
      negate = op == ">=";
    } else {
      holds = Less(budget_, right, left);
      negate = op == "<=";
    }
    RETURN_IF_ERROR(holds.status());
    if (*holds == negate) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result Interpreter::Conditional(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value test, Evaluate(*expr.operands[1]));
  if (test.Truthy()) return Evaluate(*expr.operands[0]);
  if (expr.operands[2] != nullptr) return Evaluate(*expr.operands[2]);
  return Value::MakeUndefined(StrCat("the inline if-expression on line ", expr.line,
                                     " evaluated to false and no else section was defined."));
}

Result Interpreter::GetAttribute(const Value& object, const std::string& name) {
  if (object.IsUndefined()) return TypeError(object.UndefinedReason());
  if (const Namespace* space = object.AsNamespace()) {
    const auto it = space->attributes.find(name);
    if (it != space->attributes.end()) return it->second;
  } else if (IsMutator(object, name)) {
    return Value::MakeUndefined(
        StrCat("access to attribute '", name, "' of '", object.TypeName(), "' object is unsafe."));
  } else if (const BuiltinFunction method = FindMethod(object, name)) {
    Callable bound;
    bound.name = name;
    bound.call = [object, method, name](Interpreter& interpreter, const Arguments& arguments) {
      if (object.IsMarkup()) return CallMarkupMethod(interpreter, name, method, object, arguments);
      return method(interpreter, object, arguments);
    };
    return Value(std::make_shared<const Callable>(std::move(bound)));
  } else if (const Dict* dict = object.AsDict()) {
    if (const Value* value = dict->Find(std::string_view(name))) return *value;
  } else if (const Loop* loop = object.AsLoop()) {
    return LoopAttribute(*loop, name);
  } else if (object.AsCallable() != nullptr && name == "name") {
    return MakeString(budget_, object.AsCallable()->name);
  }
  return Value::MakeUndefined(StrCat("'", ObjectName(object), "' has no attribute '", name, "'"));
}

Result Interpreter::GetItem(const Value& object, const Value& key) {
  if (object.IsUndefined()) return TypeError(object.UndefinedReason());
  const auto missing = [&]() -> Result {
    if (const std::string* name = key.AsString()) return GetAttribute(object, *name);
    ASSIGN_OR_RETURN(const std::string shown, Repr(budget_, key));
    return Value::MakeUndefined(StrCat(ObjectName(object), " has no element ", shown));
  };
  if (const Dict* dict = object.AsDict()) {
    const Value* value = dict->Find(key);
    return value == nullptr ? missing() : Result(*value);
  }
  const std::optional<int64_t> index = key.AsInt();
  const Sequence* sequence = object.AsSequence();
  const std::string* text = object.AsString();
  const bool indexable =
      text != nullptr || (sequence != nullptr && sequence->kind != SequenceKind::kView &&
                          sequence->kind != SequenceKind::kGenerator);
  if (!index.has_value() || !indexable) return missing();
  if (text != nullptr) RETURN_IF_ERROR(budget_.Steps(text->size() / 64));
  const auto length =
      static_cast<int64_t>(text != nullptr ? Utf8Length(*text) : sequence->items.size());
  const int64_t at = *index < 0 ? *index + length : *index;
  if (at < 0 || at >= length) return missing();
  if (sequence != nullptr) return sequence->items[static_cast<size_t>(at)];
  const size_t begin = Utf8Offset(*text, static_cast<size_t>(at));
  return MakeStringLike(budget_, object,
                        text->substr(begin, NextUtf8(std::string_view(*text).substr(begin)).bytes));
}

}  // namespace trireme::jinja
