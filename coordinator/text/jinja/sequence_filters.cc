// Filters over lists, dicts and other things to iterate.

#include <algorithm>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/text.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

// value.a.0.b for the path "a.0.b"; a number is an index.
Result GetPath(Interpreter& interpreter, Value value, const Value& path) {
  if (path.AsInt().has_value()) return interpreter.GetItem(value, path);
  if (path.AsString() == nullptr) return TypeError("an attribute's name must be a string");
  std::string_view rest = *path.AsString();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string part(rest.substr(0, dot));
    const bool number = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(),
                                    [](unsigned char c) { return absl::ascii_isdigit(c); });
    const Value key = number ? Value(static_cast<int64_t>(std::stoi(part))) : Value(part);
    ASSIGN_OR_RETURN(value, interpreter.GetItem(value, key));
    if (dot == std::string_view::npos) return value;
    rest.remove_prefix(dot + 1);
  }
}

Result Length(Interpreter& interpreter, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(interpreter.budget().Steps());
  const Sequence* sequence = self.AsSequence();
  if (self.IsUndefined()) return Value(int64_t{0});
  if (self.AsString() != nullptr) return Value(static_cast<int64_t>(Utf8Length(*self.AsString())));
  if (self.AsDict() != nullptr) return Value(static_cast<int64_t>(self.AsDict()->entries.size()));
  if (sequence != nullptr && sequence->kind != SequenceKind::kGenerator) {
    return Value(static_cast<int64_t>(sequence->items.size()));
  }
  return TypeError(StrCat("object of type '", self.TypeName(), "' has no len()"));
}

Result Join(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Budget& budget = interpreter.budget();
  ASSIGN_OR_RETURN(const auto items, Iterate(budget, self));
  const Value* separator = arguments.Find(0, "d");
  std::string between;
  if (separator != nullptr) {
    ASSIGN_OR_RETURN(between, ToString(budget, *separator));
  }
  const Value* attribute = arguments.Find(1, "attribute");
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    Value item = items->items[i];
    if (attribute != nullptr && !attribute->IsNone()) {
      ASSIGN_OR_RETURN(item, GetPath(interpreter, std::move(item), *attribute));
    }
    ASSIGN_OR_RETURN(const std::string text, ToString(budget, item));
    RETURN_IF_ERROR(budget.Bytes(between.size()));
    if (i > 0) out += between;
    out += text;
  }
  return MakeString(budget, std::move(out));
}

Result List(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  return MakeSequence(interpreter.budget(), std::move(items->items));
}

Result First(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  if (items->items.empty()) return Value::MakeUndefined("No first item, sequence was empty.");
  return items->items.front();
}

Result Last(Interpreter& interpreter, const Value& self, const Arguments&) {
  if (self.AsSequence() != nullptr && self.AsSequence()->kind == SequenceKind::kGenerator) {
    return TypeError("'generator' object is not reversible");
  }
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  if (items->items.empty()) return Value::MakeUndefined("No last item, sequence was empty.");
  // Unlike the first, which markup gives as plain text, the last is markup: it is indexed.
  if (self.AsString() != nullptr) return interpreter.GetItem(self, Value(int64_t{-1}));
  return items->items.back();
}

Result Reverse(Interpreter& interpreter, const Value& self, const Arguments&) {
  if (self.AsString() != nullptr) {
    return SliceValue(interpreter.budget(), self, Value(None{}), Value(None{}), Value(int64_t{-1}));
  }
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  std::reverse(items->items.begin(), items->items.end());
  return MakeSequence(interpreter.budget(), std::move(items->items), SequenceKind::kGenerator);
}

Result Items(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (self.IsUndefined()) return MakeSequence(interpreter.budget(), {}, SequenceKind::kGenerator);
  if (self.AsDict() == nullptr) return TypeError("Can only get item pairs from a mapping.");
  ASSIGN_OR_RETURN(const Value view, FindMethod(self, "items")(interpreter, self, arguments));
  return MakeSequence(interpreter.budget(), view.AsSequence()->items, SequenceKind::kGenerator);
}

// Keys to sort or compare by: the text in lower case unless the case matters.
Result CaseKey(Interpreter& interpreter, const Value& value, bool case_sensitive) {
  if (case_sensitive || value.AsString() == nullptr) return value;
  return MakeString(interpreter.budget(), Lower(*value.AsString()));
}

// Stable, with the first error of a comparison kept.
absl::StatusOr<std::vector<Value>> SortBy(Interpreter& interpreter, std::vector<Value> items,
                                          const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status status;
  // A merge sort of our own: std::sort may run wild if comparisons fail half-way.
  std::vector<size_t> merged(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t low = 0; low < order.size(); low += 2 * width) {
      const size_t middle = std::min(low + width, order.size());
      const size_t high = std::min(low + 2 * width, order.size());
      size_t left = low;
      size_t right = middle;
      for (size_t out = low; out < high; ++out) {
        bool take_right = left >= middle;
        if (left < middle && right < high) {
          const Value& a = keys[order[left]];
          const Value& b = keys[order[right]];
          ASSIGN_OR_RETURN(take_right, reverse ? Less(interpreter.budget(), a, b)
                                               : Less(interpreter.budget(), b, a));
        }
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  std::vector<Value> sorted;
  for (const size_t i : order) sorted.push_back(std::move(items[i]));
  return sorted;
}

Result Sort(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const bool reverse = BoolArgument(arguments, 0, "reverse", false);
  const bool case_sensitive = BoolArgument(arguments, 1, "case_sensitive", false);
  const Value* attribute = arguments.Find(2, "attribute");
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  std::vector<Value> keys;
  for (const Value& item : items->items) {
    Value key = item;
    if (attribute != nullptr && !attribute->IsNone()) {
      ASSIGN_OR_RETURN(key, GetPath(interpreter, item, *attribute));
    }
    ASSIGN_OR_RETURN(key, CaseKey(interpreter, key, case_sensitive));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(std::vector<Value> sorted,
                   SortBy(interpreter, std::move(items->items), keys, reverse));
  return MakeSequence(interpreter.budget(), std::move(sorted));
}

Result DictSort(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (self.AsDict() == nullptr) return TypeError("dictsort wants a mapping");
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  ASSIGN_OR_RETURN(const std::string by, StringArgument(arguments, 1, "by", "key"));
  if (by != "key" && by != "value") return TypeError("dictsort: by must be key or value");
  const bool reverse = BoolArgument(arguments, 2, "reverse", false);
  std::vector<Value> pairs;
  std::vector<Value> keys;
  for (const auto& [key, value] : self.AsDict()->entries) {
    ASSIGN_OR_RETURN(Value pair,
                     MakeSequence(interpreter.budget(), {key, value}, SequenceKind::kTuple));
    pairs.push_back(std::move(pair));
    ASSIGN_OR_RETURN(Value sort_key,
                     CaseKey(interpreter, by == "key" ? key : value, case_sensitive));
    keys.push_back(std::move(sort_key));
  }
  ASSIGN_OR_RETURN(std::vector<Value> sorted, SortBy(interpreter, std::move(pairs), keys, reverse));
  return MakeSequence(interpreter.budget(), std::move(sorted));
}

Result Unique(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  const Value* attribute = arguments.Find(1, "attribute");
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  std::vector<Value> seen;
  std::vector<Value> kept;
  for (const Value& item : items->items) {
    Value key = item;
    if (attribute != nullptr && !attribute->IsNone()) {
      ASSIGN_OR_RETURN(key, GetPath(interpreter, item, *attribute));
    }
    ASSIGN_OR_RETURN(key, CaseKey(interpreter, key, case_sensitive));
    bool known = false;
    for (const Value& other : seen) {
      ASSIGN_OR_RETURN(known, Equals(interpreter.budget(), other, key));
      if (known) break;
    }
    if (known) continue;
    seen.push_back(std::move(key));
    kept.push_back(item);
  }
  return MakeSequence(interpreter.budget(), std::move(kept), SequenceKind::kGenerator);
}

Result Map(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  // Jinja asks no more of what is false: none and undefined values are empty here.
  if (!self.Truthy()) return MakeSequence(interpreter.budget(), {}, SequenceKind::kGenerator);
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  std::vector<Value> mapped;
  if (arguments.positional.empty()) {
    const Value* attribute = arguments.Find(0, "attribute");
    if (attribute == nullptr) return TypeError("map requires a filter argument");
    const Value* fallback = arguments.Find(1, "default");
    for (const Value& item : items->items) {
      ASSIGN_OR_RETURN(Value value, GetPath(interpreter, item, *attribute));
      if (value.IsUndefined() && fallback != nullptr) value = *fallback;
      mapped.push_back(std::move(value));
    }
  } else {
    const std::string* name = arguments.positional[0].AsString();
    const BuiltinFunction filter = name == nullptr ? nullptr : FindFilter(*name);
    if (filter == nullptr) return TypeError("unsupported: map with that filter");
    Arguments rest = arguments;
    rest.positional.erase(rest.positional.begin());
    for (const Value& item : items->items) {
      RETURN_IF_ERROR(interpreter.budget().Steps());
      ASSIGN_OR_RETURN(Value value, filter(interpreter, item, rest));
      mapped.push_back(std::move(value));
    }
  }
  return MakeSequence(interpreter.budget(), std::move(mapped), SequenceKind::kGenerator);
}

// select, reject (of the item) and selectattr, rejectattr (of an attribute of it).
template <bool keep, bool by_attribute>
Result Select(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (!self.Truthy()) return MakeSequence(interpreter.budget(), {}, SequenceKind::kGenerator);
  constexpr size_t kTest = by_attribute ? 1 : 0;
  if (arguments.positional.size() < kTest) {
    return TypeError("Missing parameter for attribute name");
  }
  BuiltinFunction test = nullptr;
  Arguments rest;
  if (arguments.positional.size() > kTest) {
    const std::string* name = arguments.positional[kTest].AsString();
    test = name == nullptr ? nullptr : FindTest(*name);
    if (test == nullptr) return TypeError("unsupported: select with that test");
    rest.positional.assign(arguments.positional.begin() + kTest + 1, arguments.positional.end());
  }
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  std::vector<Value> kept;
  for (const Value& item : items->items) {
    RETURN_IF_ERROR(interpreter.budget().Steps());
    Value value = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(value, GetPath(interpreter, item, arguments.positional[0]));
    }
    if (test != nullptr) {
      ASSIGN_OR_RETURN(value, test(interpreter, value, rest));
    }
    if (value.Truthy() == keep) kept.push_back(item);
  }
  return MakeSequence(interpreter.budget(), std::move(kept), SequenceKind::kGenerator);
}

Result Sum(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value* attribute = arguments.Find(0, "attribute");
  const Value* start = arguments.Find(1, "start");
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  Value total = start == nullptr ? Value(int64_t{0}) : *start;
  for (Value& item : items->items) {
    if (attribute != nullptr && !attribute->IsNone()) {
      ASSIGN_OR_RETURN(item, GetPath(interpreter, item, *attribute));
    }
    ASSIGN_OR_RETURN(total, BinaryOperator(interpreter, "+", total, item));
  }
  return total;
}

template <bool maximum>
Result Extreme(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const bool case_sensitive = BoolArgument(arguments, 0, "case_sensitive", false);
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), self));
  if (items->items.empty()) {
    return Value::MakeUndefined("No aggregated item, sequence was empty.");
  }
  Value best = items->items[0];
  for (const Value& item : items->items) {
    ASSIGN_OR_RETURN(const Value a, CaseKey(interpreter, best, case_sensitive));
    ASSIGN_OR_RETURN(const Value b, CaseKey(interpreter, item, case_sensitive));
    ASSIGN_OR_RETURN(const bool better,
                     maximum ? Less(interpreter.budget(), a, b) : Less(interpreter.budget(), b, a));
    if (better) best = item;
  }
  return best;
}

Result Attr(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string name, StringArgument(arguments, 0, "name", ""));
  // Only attributes, never items.
  if (self.AsDict() != nullptr && FindMethod(self, name) == nullptr) {
    return Value::MakeUndefined(StrCat("no attribute '", name, "'"));
  }
  return interpreter.GetAttribute(self, name);
}

}  // namespace

const std::vector<Builtin>& SequenceFilters() {
  static const std::vector<Builtin> kTable = {
      {"length", Length},
      {"count", Length},
      {"join", Join},
      {"list", List},
      {"first", First},
      {"last", Last},
      {"reverse", Reverse},
      {"items", Items},
      {"sort", Sort},
      {"dictsort", DictSort},
      {"unique", Unique},
      {"map", Map},
      {"select", Select<true, false>},
      {"reject", Select<false, false>},
      {"selectattr", Select<true, true>},
      {"rejectattr", Select<false, true>},
      {"sum", Sum},
      {"min", Extreme<false>},
      {"max", Extreme<true>},
      {"attr", Attr},
  };
  return kTable;
}

}  // namespace trireme::jinja
