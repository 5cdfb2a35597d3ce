// Arithmetic, membership and slices as Python defines them.

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/markup.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

absl::Status Overflow() { return TypeError("unsupported: an integer of more than 64 bits"); }

absl::Status DivisionByZero() { return TypeError("division by zero"); }

Result IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0)
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return Value(result);
}

Result IntOperator(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "**") return IntPower(a, b);
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) return Overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) return Overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) return Overflow();
  } else {
    if (b == 0) return DivisionByZero();
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) return op == "%" ? Result(Value(int64_t{0})) : IntOperator("-", 0, a);
    // Python rounds towards minus infinity.
    const int64_t remainder = a % b;
    const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
    result = op == "%" ? remainder + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
  }
  return Value(result);
}

Result FloatOperator(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) return DivisionByZero();
  if (op == "/") return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return Value(remainder);
  return Value(std::floor((a - remainder) / b + 0.5));
}

Result Repeat(Budget& budget, const Value& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (const std::string* text = value.AsString()) {
    RETURN_IF_ERROR(budget.Bytes(times));
    if (times > 0) RETURN_IF_ERROR(budget.Bytes(std::min<size_t>(text->size(), 1 << 30) * times));
    std::string out;
    for (size_t i = 0; i < times; ++i) out += *text;
    return MakeStringLike(budget, value, std::move(out));
  }
  const Sequence& sequence = *value.AsSequence();
  RETURN_IF_ERROR(budget.Bytes(times));
  RETURN_IF_ERROR(budget.Bytes(times * sequence.items.size() * sizeof(Value)));
  std::vector<Value> items;
  for (size_t i = 0; i < times; ++i) {
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return MakeSequence(budget, std::move(items), sequence.kind);
}

// "text %s %d" % value, of the plain conversions.
Result PercentFormat(Budget& budget, const Value& self, const Value& value) {
  const std::string& format = *self.AsString();
  std::vector<Value> arguments = {value};
  const Sequence* tuple = value.AsSequence();
  if (tuple != nullptr && tuple->kind == SequenceKind::kTuple) arguments = tuple->items;
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out.push_back(format[i]);
      continue;
    }
    const char conversion = i + 1 < format.size() ? format[++i] : '\0';
    if (conversion == '%') {
      out.push_back('%');
      continue;
    }
    if (next >= arguments.size()) return TypeError("not enough arguments for format string");
    const Value& argument = arguments[next++];
    if (conversion == 's') {
      ASSIGN_OR_RETURN(const std::string text, self.IsMarkup() ? EscapedText(budget, argument)
                                                               : ToString(budget, argument));
      out += text;
    } else if (conversion == 'r') {
      ASSIGN_OR_RETURN(const std::string text, Repr(budget, argument));
      out += self.IsMarkup() ? Escape(text) : text;
    } else if ((conversion == 'd' || conversion == 'i') && argument.AsInt().has_value()) {
      out += std::to_string(*argument.AsInt());
    } else {
      return TypeError(StrCat("unsupported: format %", std::string(1, conversion)));
    }
  }
  if (next < arguments.size()) {
    return TypeError("not all arguments converted during string formatting");
  }
  return MakeStringLike(budget, self, std::move(out));
}

bool IsListOrTuple(const Value& value) {
  const Sequence* sequence = value.AsSequence();
  return sequence != nullptr &&
         (sequence->kind == SequenceKind::kList || sequence->kind == SequenceKind::kTuple);
}

bool Repeatable(const Value& value) { return value.AsString() != nullptr || IsListOrTuple(value); }

}  // namespace

Result BinaryOperator(Interpreter& interpreter, std::string_view op, const Value& a,
                      const Value& b) {
  Budget& budget = interpreter.budget();
  if (a.IsUndefined()) return TypeError(a.UndefinedReason());
  if (b.IsUndefined()) return TypeError(b.UndefinedReason());
  if (a.IsNumber() && b.IsNumber()) {
    if (a.IsFloat() || b.IsFloat()) return FloatOperator(op, *a.AsNumber(), *b.AsNumber());
    return IntOperator(op, *a.AsInt(), *b.AsInt());
  }
  if (op == "+" && a.AsString() != nullptr && b.AsString() != nullptr) {
    if (!a.IsMarkup() && !b.IsMarkup()) return MakeString(budget, *a.AsString() + *b.AsString());
    ASSIGN_OR_RETURN(const std::string text, EscapedText(budget, a));
    ASSIGN_OR_RETURN(const std::string rest, EscapedText(budget, b));
    return MakeMarkup(budget, text + rest);
  }
  if (op == "+" && IsListOrTuple(a) && IsListOrTuple(b) &&
      a.AsSequence()->kind == b.AsSequence()->kind) {
    std::vector<Value> items = a.AsSequence()->items;
    items.insert(items.end(), b.AsSequence()->items.begin(), b.AsSequence()->items.end());
    return MakeSequence(budget, std::move(items), a.AsSequence()->kind);
  }
  if (op == "*" && Repeatable(a) && b.AsInt().has_value()) return Repeat(budget, a, *b.AsInt());
  if (op == "*" && Repeatable(b) && a.AsInt().has_value()) return Repeat(budget, b, *a.AsInt());
  if (op == "%" && a.AsString() != nullptr) return PercentFormat(budget, a, b);
  return TypeError(StrCat("unsupported operand types for ", op, ": '", a.TypeName(), "' and '",
                          b.TypeName(), "'"));
}

absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item) {
  if (const std::string* text = container.AsString()) {
    if (item.AsString() == nullptr) {
      return TypeError(
          StrCat("'in <string>' requires string as left operand, not ", item.TypeName()));
    }
    RETURN_IF_ERROR(budget.Steps(1 + text->size() / 64));
    return text->find(*item.AsString()) != std::string::npos;
  }
  if (const Dict* dict = container.AsDict()) return dict->Find(item) != nullptr;
  ASSIGN_OR_RETURN(const auto items, Iterate(budget, container));
  for (const Value& other : items->items) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, other, item));
    if (equal) return true;
  }
  return false;
}

Result SliceValue(Budget& budget, const Value& value, const Value& start, const Value& stop,
                  const Value& step) {
  if (value.IsUndefined()) return TypeError(value.UndefinedReason());
  const std::string* text = value.AsString();
  const Sequence* sequence = value.AsSequence();
  if (text == nullptr && (sequence == nullptr || sequence->kind == SequenceKind::kView ||
                          sequence->kind == SequenceKind::kGenerator)) {
    return Value::MakeUndefined(StrCat("'", value.TypeName(), " object' cannot be sliced"));
  }
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->IsNone() && !bound->AsInt().has_value()) {
      return TypeError("slice indices must be integers or None");
    }
  }
  std::u32string characters;
  if (text != nullptr) {
    RETURN_IF_ERROR(budget.Bytes(text->size() * 4));
    characters = ToUtf32(*text);
  }
  const auto length =
      static_cast<int64_t>(text != nullptr ? characters.size() : sequence->items.size());
  const int64_t by = step.AsInt().value_or(1);
  if (by == 0) return TypeError("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1;
  const int64_t high = by > 0 ? length : length - 1;
  const auto clamp = [&](const Value& bound, int64_t fallback) {
    if (!bound.AsInt().has_value()) return fallback;
    const int64_t at = *bound.AsInt();
    return std::min(std::max(at < 0 ? std::max(at, -length - 1) + length : at, low), high);
  };
  const int64_t begin = clamp(start, by > 0 ? low : high);
  const int64_t end = clamp(stop, by > 0 ? high : low);
  std::u32string picked;
  std::vector<Value> items;
  for (int64_t i = begin; by > 0 ? i < end : i > end;) {
    if (text != nullptr) {
      picked.push_back(characters[static_cast<size_t>(i)]);
    } else {
      items.push_back(sequence->items[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (text != nullptr) return MakeStringLike(budget, value, ToUtf8(picked));
  return MakeSequence(budget, std::move(items), sequence->kind);
}

}  // namespace trireme::jinja
