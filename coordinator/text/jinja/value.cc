#include "coordinator/text/jinja/value.h"

#include <algorithm>
#include <limits>

#include "base/status_macros.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {

absl::Status TypeError(std::string message) {
  return absl::InvalidArgumentError(std::move(message));
}

Value Value::MakeUndefined(std::string reason) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(reason))};
  return value;
}

const std::string& Value::UndefinedReason() const {
  static const std::string kDefault = "value is undefined";
  const auto* undefined = std::get_if<Undefined>(&data_);
  return undefined != nullptr && undefined->reason != nullptr ? *undefined->reason : kDefault;
}

std::optional<int64_t> Value::AsInt() const {
  if (const auto* value = std::get_if<int64_t>(&data_)) return *value;
  if (const auto* value = std::get_if<bool>(&data_)) return *value ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::AsNumber() const {
  if (const auto* value = std::get_if<double>(&data_)) return *value;
  if (const auto value = AsInt()) return static_cast<double>(*value);
  return std::nullopt;
}

bool Value::Truthy() const {
  if (IsUndefined() || IsNone()) return false;
  if (const auto number = AsNumber()) return *number != 0;
  if (const std::string* text = AsString()) return !text->empty();
  if (const Dict* dict = AsDict()) return !dict->entries.empty();
  if (const Sequence* sequence = AsSequence()) {
    return sequence->kind == SequenceKind::kGenerator || !sequence->items.empty();
  }
  return true;
}

int Value::Depth() const {
  if (const Sequence* sequence = AsSequence()) return sequence->depth;
  if (const Dict* dict = AsDict()) return dict->depth;
  return 0;
}

std::string_view Value::TypeName() const {
  if (IsUndefined()) return "Undefined";
  if (IsNone()) return "NoneType";
  if (IsBool()) return "bool";
  if (IsInt()) return "int";
  if (IsFloat()) return "float";
  if (IsMarkup()) return "Markup";
  if (AsString() != nullptr) return "str";
  if (AsDict() != nullptr) return "dict";
  if (AsNamespace() != nullptr) return "Namespace";
  if (AsLoop() != nullptr) return "LoopContext";
  if (AsCallable() != nullptr) return "function";
  switch (AsSequence()->kind) {
    case SequenceKind::kTuple:
      return "tuple";
    case SequenceKind::kRange:
      return "range";
    case SequenceKind::kView:
      return "dict_view";
    case SequenceKind::kGenerator:
      return "generator";
    default:
      return "list";
  }
}

bool Value::SameAs(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  return std::visit(
      [&](const auto& mine) {
        using T = std::decay_t<decltype(mine)>;
        const T& theirs = std::get<T>(other.data_);
        if constexpr (std::is_same_v<T, None> || std::is_same_v<T, Undefined>) {
          return true;
        } else {
          return mine == theirs;
        }
      },
      data_);
}

namespace {

// Keys: strings by content, numbers by value, anything else by identity.
bool SameKey(const Value& a, const Value& b) {
  if (a.AsString() != nullptr || b.AsString() != nullptr) {
    return a.AsString() != nullptr && b.AsString() != nullptr && *a.AsString() == *b.AsString();
  }
  const auto x = a.AsNumber();
  const auto y = b.AsNumber();
  if (x.has_value() && y.has_value()) return *x == *y;
  return a.SameAs(b);
}

}  // namespace

void Dict::Set(Value key, Value value) {
  if (const Value* found = Find(key)) {
    *const_cast<Value*>(found) = std::move(value);
    return;
  }
  if (const std::string* text = key.AsString()) by_string.emplace(*text, entries.size());
  entries.emplace_back(std::move(key), std::move(value));
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = by_string.find(key);
  return it == by_string.end() ? nullptr : &entries[it->second].second;
}

const Value* Dict::Find(const Value& key) const {
  if (const std::string* text = key.AsString()) return Find(std::string_view(*text));
  if (by_string.size() == entries.size()) return nullptr;
  for (const auto& [other, value] : entries) {
    if (SameKey(other, key)) return &value;
  }
  return nullptr;
}

const Value* Arguments::Find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [other, value] : named) {
    if (other == name) return &value;
  }
  return nullptr;
}

absl::Status Budget::Steps(size_t count) {
  if (count > steps_) return absl::InvalidArgumentError("the template takes too many steps");
  steps_ -= count;
  return absl::OkStatus();
}

absl::Status Budget::Bytes(size_t count) {
  if (count > bytes_) return absl::InvalidArgumentError("the template takes too much memory");
  bytes_ -= count;
  return absl::OkStatus();
}

Result MakeSequence(Budget& budget, std::vector<Value> items, SequenceKind kind) {
  RETURN_IF_ERROR(budget.Bytes(sizeof(Sequence) + items.size() * sizeof(Value)));
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) sequence->depth = std::max(sequence->depth, item.Depth() + 1);
  if (sequence->depth > kValueDepthMax) return TypeError("a list is nested too deeply");
  sequence->kind = kind;
  sequence->items = std::move(items);
  return Value(std::move(sequence));
}

Result MakeDict(Budget& budget, Dict dict) {
  RETURN_IF_ERROR(budget.Bytes(sizeof(Dict) + dict.entries.size() * 4 * sizeof(Value)));
  for (const auto& [key, value] : dict.entries) {
    dict.depth = std::max({dict.depth, value.Depth() + 1, key.Depth() + 1});
  }
  if (dict.depth > kValueDepthMax) return TypeError("a dict is nested too deeply");
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Result MakeString(Budget& budget, std::string text) {
  RETURN_IF_ERROR(budget.Bytes(text.size() + sizeof(std::string)));
  return Value(std::move(text));
}

namespace {

absl::StatusOr<bool> EqualDicts(Budget& budget, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, value, *other));
    if (!equal) return false;
  }
  return true;
}

bool Comparable(const Sequence& a, const Sequence& b) {
  return a.kind == b.kind && a.kind != SequenceKind::kGenerator && a.kind != SequenceKind::kView;
}

}  // namespace

absl::StatusOr<bool> Equals(Budget& budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget.Steps());
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.IsFloat() && !b.IsFloat()) return a.AsInt() == b.AsInt();
    return *a.AsNumber() == *b.AsNumber();
  }
  if (a.AsString() != nullptr && b.AsString() != nullptr) {
    RETURN_IF_ERROR(budget.Steps(a.AsString()->size() / 64));
    return *a.AsString() == *b.AsString();
  }
  if (a.AsDict() != nullptr && b.AsDict() != nullptr) {
    return EqualDicts(budget, *a.AsDict(), *b.AsDict());
  }
  const Sequence* x = a.AsSequence();
  const Sequence* y = b.AsSequence();
  if (x == nullptr || y == nullptr || !Comparable(*x, *y)) return a.SameAs(b);
  if (x->items.size() != y->items.size()) return false;
  for (size_t i = 0; i < x->items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, x->items[i], y->items[i]));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> Less(Budget& budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget.Steps());
  if (a.IsUndefined()) return TypeError(a.UndefinedReason());
  if (b.IsUndefined()) return TypeError(b.UndefinedReason());
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.IsFloat() && !b.IsFloat()) return *a.AsInt() < *b.AsInt();
    return *a.AsNumber() < *b.AsNumber();
  }
  if (a.AsString() != nullptr && b.AsString() != nullptr) {
    RETURN_IF_ERROR(budget.Steps(a.AsString()->size() / 64));
    return *a.AsString() < *b.AsString();  // UTF-8 sorts by code point
  }
  const Sequence* x = a.AsSequence();
  const Sequence* y = b.AsSequence();
  if (x == nullptr || y == nullptr || !Comparable(*x, *y)) {
    return TypeError(StrCat("'<' not supported between instances of '", a.TypeName(), "' and '",
                            b.TypeName(), "'"));
  }
  for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, x->items[i], y->items[i]));
    if (!equal) return Less(budget, x->items[i], y->items[i]);
  }
  return x->items.size() < y->items.size();
}

absl::StatusOr<std::shared_ptr<Sequence>> Iterate(Budget& budget, const Value& value) {
  auto out = std::make_shared<Sequence>();
  if (Sequence* sequence = value.AsSequence()) {
    RETURN_IF_ERROR(budget.Bytes(sequence->items.size() * sizeof(Value)));
    if (!sequence->consumed) out->items = sequence->items;
    if (sequence->kind == SequenceKind::kGenerator) sequence->consumed = true;
  } else if (const Dict* dict = value.AsDict()) {
    RETURN_IF_ERROR(budget.Bytes(dict->entries.size() * sizeof(Value)));
    for (const auto& entry : dict->entries) out->items.push_back(entry.first);
  } else if (const std::string* text = value.AsString()) {
    RETURN_IF_ERROR(budget.Bytes(text->size() * (sizeof(Value) + 64)));
    for (std::string_view rest = *text; !rest.empty();) {
      const size_t bytes = NextUtf8(rest).bytes;
      out->items.emplace_back(std::string(rest.substr(0, bytes)));
      rest.remove_prefix(bytes);
    }
  } else if (!value.IsUndefined()) {
    return TypeError(StrCat("'", value.TypeName(), "' object is not iterable"));
  }
  return out;
}

Result FromJson(Budget& budget, const nlohmann::ordered_json& json, int depth) {
  if (depth > kValueDepthMax - 2) return TypeError("JSON is nested too deeply");
  if (json.is_null()) return Value(None{});
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned()) {
    const auto number = json.get<uint64_t>();
    if (number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Value(static_cast<int64_t>(number));
    }
    return Value(static_cast<double>(number));
  }
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number_float()) return Value(json.get<double>());
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    if (!IsValidUtf8(text)) return TypeError("a string is not UTF-8");
    return MakeString(budget, text);
  }
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) {
      ASSIGN_OR_RETURN(Value value, FromJson(budget, item, depth + 1));
      items.push_back(std::move(value));
    }
    return MakeSequence(budget, std::move(items));
  }
  Dict dict;
  for (auto it = json.begin(); it != json.end(); ++it) {
    ASSIGN_OR_RETURN(Value value, FromJson(budget, it.value(), depth + 1));
    ASSIGN_OR_RETURN(Value key, MakeString(budget, it.key()));
    dict.Set(std::move(key), std::move(value));
  }
  return MakeDict(budget, std::move(dict));
}

}  // namespace trireme::jinja
