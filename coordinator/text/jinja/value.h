#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/strings.h"
#include "nlohmann/json.hpp"

namespace trireme::jinja {

// What a template computes with: the types of Python that Jinja2 shows. Values are immutable but
// for namespaces, shared by reference, and used by one render at a time (not thread safe).

class Interpreter;
class Value;
using Result = absl::StatusOr<Value>;

// Nested lists and dicts are at most this deep, so that recursion over a value is safe.
inline constexpr int kValueDepthMax = 100;

struct Undefined {
  std::shared_ptr<const std::string> reason;  // "'x' is undefined"
};
struct None {};

enum class SequenceKind { kList, kTuple, kRange, kView, kGenerator };

struct Sequence {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
  int depth = 1;
  bool consumed = false;  // a generator gives its items once
};

// A string that needs no escaping: markup.h.
struct Markup {
  std::string text;
};

struct Dict;
struct Namespace;
struct Callable;
struct Loop;

class Value {
 public:
  using Variant =
      std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                   std::shared_ptr<const Markup>, std::shared_ptr<Sequence>,
                   std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                   std::shared_ptr<const Callable>, std::shared_ptr<Loop>>;

  Value() : data_(Undefined{}) {}
  Value(None none) : data_(none) {}       // NOLINT: implicit as in the language
  Value(bool value) : data_(value) {}     // NOLINT
  Value(int64_t value) : data_(value) {}  // NOLINT
  Value(double value) : data_(value) {}   // NOLINT
  Value(std::string text)
      : data_(std::make_shared<const std::string>(std::move(text))) {}  // NOLINT
  template <typename T>
  explicit Value(std::shared_ptr<T> pointer) : data_(std::move(pointer)) {}

  static Value MakeUndefined(std::string reason);

  bool IsUndefined() const { return std::holds_alternative<Undefined>(data_); }
  bool IsNone() const { return std::holds_alternative<None>(data_); }
  bool IsBool() const { return std::holds_alternative<bool>(data_); }
  bool IsInt() const { return std::holds_alternative<int64_t>(data_); }
  bool IsFloat() const { return std::holds_alternative<double>(data_); }
  bool IsNumber() const { return IsInt() || IsFloat() || IsBool(); }

  bool IsMarkup() const { return Get<const Markup>() != nullptr; }

  // Null if the value is of another type. Markup is a string too.
  const std::string* AsString() const {
    const Markup* markup = Get<const Markup>();
    return markup != nullptr ? &markup->text : Get<const std::string>();
  }
  Sequence* AsSequence() const { return Get<Sequence>(); }
  const Dict* AsDict() const { return Get<const Dict>(); }
  Namespace* AsNamespace() const { return Get<Namespace>(); }
  const Callable* AsCallable() const { return Get<const Callable>(); }
  Loop* AsLoop() const { return Get<Loop>(); }

  // Integers and booleans, which are integers in Python.
  std::optional<int64_t> AsInt() const;
  // Any number.
  std::optional<double> AsNumber() const;

  const std::string& UndefinedReason() const;
  bool Truthy() const;
  int Depth() const;
  // Python's name of the type: "str", "list", …
  std::string_view TypeName() const;
  // The same object, for `is sameas` and identity of what has no equality.
  bool SameAs(const Value& other) const;

 private:
  template <typename T>
  T* Get() const {
    const auto* pointer = std::get_if<std::shared_ptr<T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }
  Variant data_;
};

// In insertion order, as in Python.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  StringMap<size_t> by_string;  // index of the entries whose key is a string
  int depth = 1;

  // Replaces the value of an equal key.
  void Set(Value key, Value value);
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
};

struct Namespace {
  StringMap<Value> attributes;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument by position or name; null if not given.
  const Value* Find(size_t index, std::string_view name) const;
};

struct Callable {
  std::string name;
  std::function<Result(Interpreter&, const Arguments&)> call;
};

// The `loop` variable of one `for`.
struct Loop {
  std::shared_ptr<Sequence> items;
  size_t index0 = 0;
  std::optional<Value> last_changed;  // of loop.changed()
};

// What a render may still use. Every operation on values of unbounded size charges it, so that no
// template runs without end or takes all memory.
class Budget {
 public:
  Budget(size_t steps, size_t bytes) : steps_(steps), bytes_(bytes) {}
  absl::Status Steps(size_t count = 1);
  absl::Status Bytes(size_t count);

 private:
  size_t steps_;
  size_t bytes_;
};

Result MakeSequence(Budget& budget, std::vector<Value> items,
                    SequenceKind kind = SequenceKind::kList);
Result MakeDict(Budget& budget, Dict dict);
Result MakeString(Budget& budget, std::string text);

absl::StatusOr<bool> Equals(Budget& budget, const Value& a, const Value& b);
// Whether a < b, as Python orders; an error for types that have no order.
absl::StatusOr<bool> Less(Budget& budget, const Value& a, const Value& b);

// The items of what can be iterated: list, tuple, dict (keys), string (characters), generator
// (which is then empty), undefined (nothing). Null-pointer-free; an error for anything else.
absl::StatusOr<std::shared_ptr<Sequence>> Iterate(Budget& budget, const Value& value);

// JSON as the value Python's json.loads gives; integers beyond 64 bits become floats.
Result FromJson(Budget& budget, const nlohmann::ordered_json& json, int depth = 0);

absl::Status TypeError(std::string message);

}  // namespace trireme::jinja
