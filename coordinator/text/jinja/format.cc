#include "coordinator/text/jinja/format.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/status_macros.h"
#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

void AppendHex(char32_t c, int digits, std::string& out) {
  std::array<char, 16> buffer;
  std::snprintf(buffer.data(), buffer.size(), "%0*x", digits, static_cast<unsigned>(c));
  out.append(buffer.data());
}

void AppendStringRepr(std::string_view text, std::string& out) {
  const bool single = text.find('\'') == std::string_view::npos;
  const char quote = single || text.find('"') != std::string_view::npos ? '\'' : '"';
  out.push_back(quote);
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const char32_t c = step.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (IsPrintable(c)) {
      out.append(text.substr(0, step.bytes));
    } else {
      out.append(c < 0x100 ? "\\x" : c < 0x10000 ? "\\u" : "\\U");
      AppendHex(c, c < 0x100 ? 2 : c < 0x10000 ? 4 : 8, out);
    }
    text.remove_prefix(step.bytes);
  }
  out.push_back(quote);
}

// Appends to one growing string and charges what it appends.
class Writer {
 public:
  Writer(Budget& budget, const JsonStyle* style) : budget_(budget), style_(style) {}

  absl::Status WriteRepr(const Value& value, int depth = 0);
  absl::Status WriteJson(const Value& value, int level = 0);
  std::string Take() { return std::move(out_); }

 private:
  absl::Status Charge() {
    const size_t grown = out_.size() - charged_;
    charged_ = out_.size();
    RETURN_IF_ERROR(budget_.Steps());
    return budget_.Bytes(grown);
  }
  absl::Status ReprSequence(const Sequence& sequence, int depth);
  absl::Status ReprDict(const Dict& dict, int depth);
  absl::Status JsonDict(const Dict& dict, int level);
  absl::Status JsonKey(const Value& key);
  void JsonString(std::string_view text);
  void JsonEscape(char32_t c);
  void NewLine(int level);

  Budget& budget_;
  const JsonStyle* style_;
  std::string out_;
  size_t charged_ = 0;
};

absl::Status Writer::WriteRepr(const Value& value, int depth) {
  if (depth > 2 * kValueDepthMax) return TypeError("a value is nested too deeply");
  if (const std::string* text = value.AsString()) {
    if (value.IsMarkup()) out_.append("Markup(");
    AppendStringRepr(*text, out_);
    if (value.IsMarkup()) out_.push_back(')');
  } else if (value.IsUndefined()) {
    out_.append("Undefined");
  } else if (value.IsNone()) {
    out_.append("None");
  } else if (value.IsBool()) {
    out_.append(value.Truthy() ? "True" : "False");
  } else if (value.IsInt()) {
    out_.append(std::to_string(*value.AsInt()));
  } else if (value.IsFloat()) {
    out_.append(FloatRepr(*value.AsNumber()));
  } else if (const Sequence* sequence = value.AsSequence()) {
    RETURN_IF_ERROR(ReprSequence(*sequence, depth));
  } else if (const Dict* dict = value.AsDict()) {
    RETURN_IF_ERROR(ReprDict(*dict, depth));
  } else {
    // In Python these show addresses in memory: nobody can rely on the text.
    StrAppend(out_, "<", value.TypeName(), ">");
  }
  return Charge();
}

absl::Status Writer::ReprSequence(const Sequence& sequence, int depth) {
  if (sequence.kind == SequenceKind::kGenerator) {
    out_.append("<generator>");
    return absl::OkStatus();
  }
  const bool tuple = sequence.kind == SequenceKind::kTuple;
  out_.append(tuple ? "(" : "[");
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out_.append(", ");
    RETURN_IF_ERROR(WriteRepr(sequence.items[i], depth + 1));
  }
  if (tuple && sequence.items.size() == 1) out_.append(",");
  out_.append(tuple ? ")" : "]");
  return absl::OkStatus();
}

absl::Status Writer::ReprDict(const Dict& dict, int depth) {
  out_.append("{");
  bool first = true;
  for (const auto& [key, item] : dict.entries) {
    if (!first) out_.append(", ");
    first = false;
    RETURN_IF_ERROR(WriteRepr(key, depth + 1));
    out_.append(": ");
    RETURN_IF_ERROR(WriteRepr(item, depth + 1));
  }
  out_.append("}");
  return absl::OkStatus();
}

void Writer::NewLine(int level) {
  if (!style_->indented) return;
  out_.push_back('\n');
  for (int i = 0; i < level; ++i) out_.append(style_->indent);
}

void Writer::JsonEscape(char32_t c) {
  out_.append("\\u");
  AppendHex(c, 4, out_);
}

void Writer::JsonString(std::string_view text) {
  out_.push_back('"');
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const char32_t c = step.code_point;
    constexpr std::string_view kNamed = "\"\\\n\r\t\f\b";
    constexpr std::string_view kNames = "\"\\nrtfb";
    const size_t named = c < 0x80 ? kNamed.find(static_cast<char>(c)) : std::string_view::npos;
    if (named != std::string_view::npos) {
      out_.push_back('\\');
      out_.push_back(kNames[named]);
    } else if (c < 0x20 || (style_->ensure_ascii && c > 0x7E && c < 0x10000)) {
      JsonEscape(c);
    } else if (style_->ensure_ascii && c >= 0x10000) {
      JsonEscape(0xD800 + ((c - 0x10000) >> 10));
      JsonEscape(0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
      out_.append(text.substr(0, step.bytes));
    }
    text.remove_prefix(step.bytes);
  }
  out_.push_back('"');
}

absl::Status Writer::JsonKey(const Value& key) {
  if (const std::string* text = key.AsString()) {
    JsonString(*text);
    return absl::OkStatus();
  }
  if (!key.IsNumber() && !key.IsNone()) {
    return TypeError(StrCat("keys must be str, int, float, bool or None, not ", key.TypeName()));
  }
  out_.push_back('"');
  RETURN_IF_ERROR(WriteJson(key));
  out_.push_back('"');
  return absl::OkStatus();
}

absl::Status Writer::JsonDict(const Dict& dict, int level) {
  std::vector<const std::pair<Value, Value>*> entries;
  RETURN_IF_ERROR(budget_.Steps(dict.entries.size()));
  for (const auto& entry : dict.entries) entries.push_back(&entry);
  if (style_->sort_keys) {
    for (const auto* entry : entries) {
      if (entry->first.AsString() == nullptr) return TypeError("sort_keys needs string keys");
    }
    std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
      return *a->first.AsString() < *b->first.AsString();
    });
  }
  out_.push_back('{');
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out_.append(style_->item_separator);
    NewLine(level + 1);
    RETURN_IF_ERROR(JsonKey(entries[i]->first));
    out_.append(style_->key_separator);
    RETURN_IF_ERROR(WriteJson(entries[i]->second, level + 1));
  }
  if (!entries.empty()) NewLine(level);
  out_.push_back('}');
  return absl::OkStatus();
}

absl::Status Writer::WriteJson(const Value& value, int level) {
  const Sequence* sequence = value.AsSequence();
  if (const std::string* text = value.AsString()) {
    JsonString(*text);
  } else if (value.IsNone()) {
    out_.append("null");
  } else if (value.IsBool()) {
    out_.append(value.Truthy() ? "true" : "false");
  } else if (value.IsInt()) {
    out_.append(std::to_string(*value.AsInt()));
  } else if (value.IsFloat()) {
    const double number = *value.AsNumber();
    out_.append(std::isnan(number)   ? "NaN"
                : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                     : FloatRepr(number));
  } else if (const Dict* dict = value.AsDict()) {
    RETURN_IF_ERROR(JsonDict(*dict, level));
  } else if (sequence != nullptr &&
             (sequence->kind == SequenceKind::kList || sequence->kind == SequenceKind::kTuple)) {
    out_.push_back('[');
    for (size_t i = 0; i < sequence->items.size(); ++i) {
      if (i > 0) out_.append(style_->item_separator);
      NewLine(level + 1);
      RETURN_IF_ERROR(WriteJson(sequence->items[i], level + 1));
    }
    if (!sequence->items.empty()) NewLine(level);
    out_.push_back(']');
  } else {
    return TypeError(StrCat("Object of type ", value.TypeName(), " is not JSON serializable"));
  }
  return Charge();
}

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 64> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::scientific);
  // "-d.ddde±XX" → sign, digits, exponent of the first digit
  std::string text(buffer.data(), result.ptr);
  std::string sign;
  if (text[0] == '-') {
    sign = "-";
    text.erase(0, 1);
  }
  const size_t e = text.find('e');
  const char* exponent_begin = text.data() + e + 1 + (text[e + 1] == '+' ? 1 : 0);
  int exponent = 0;
  std::from_chars(exponent_begin, text.data() + text.size(), exponent);
  std::string digits = text.substr(0, e);
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    std::array<char, 16> tail;
    std::snprintf(tail.data(), tail.size(), "e%c%02d", exponent < 0 ? '-' : '+',
                  std::abs(exponent));
    return out + tail.data();
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

absl::StatusOr<std::string> Repr(Budget& budget, const Value& value) {
  Writer writer(budget, nullptr);
  RETURN_IF_ERROR(writer.WriteRepr(value));
  return writer.Take();
}

absl::StatusOr<std::string> ToString(Budget& budget, const Value& value) {
  if (value.IsUndefined()) return std::string();
  if (const std::string* text = value.AsString()) {
    RETURN_IF_ERROR(budget.Bytes(text->size()));
    return *text;
  }
  return Repr(budget, value);
}

absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style) {
  Writer writer(budget, &style);
  RETURN_IF_ERROR(writer.WriteJson(value));
  return writer.Take();
}

}  // namespace trireme::jinja
