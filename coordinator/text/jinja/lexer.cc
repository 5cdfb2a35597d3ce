#include "coordinator/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "coordinator/text/jinja/text.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {

absl::Status ErrorAt(int line, std::string_view message) {
  return absl::InvalidArgumentError(StrCat("line ", line, ": ", message));
}

namespace {

constexpr size_t kTokensMax = 1'000'000;

bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }

bool IsNameByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// All newlines as \n, and one at the very end dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), in_(source_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < in_.size()) RETURN_IF_ERROR(Root());
    Add(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  bool At(std::string_view text) const { return in_.substr(pos_, text.size()) == text; }
  bool At(size_t pos, std::string_view text) const {
    return pos <= in_.size() && in_.substr(pos, text.size()) == text;
  }
  void Add(TokenKind kind, std::string text = "") {
    tokens_.push_back({kind, line_, std::move(text), 0, 0});
  }
  void Advance(size_t end) {
    line_ += static_cast<int>(std::count(in_.begin() + static_cast<ptrdiff_t>(pos_),
                                         in_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    pos_ = end;
  }
  size_t SkipSpace(size_t pos) const { return pos + LeadingSpace(in_.substr(pos)); }

  // Text up to the next tag, then the tag.
  absl::Status Root() {
    size_t tag = pos_;
    while (true) {
      tag = in_.find('{', tag);
      if (tag == std::string_view::npos) {
        Add(TokenKind::kData, std::string(in_.substr(pos_)));
        Advance(in_.size());
        return absl::OkStatus();
      }
      if (At(tag, "{%") || At(tag, "{{") || At(tag, "{#")) break;
      ++tag;
    }
    std::string_view sign = in_.substr(tag + 2, 1);
    if (sign != "-" && sign != "+") sign = "";
    AddStripped(in_.substr(pos_, tag - pos_), sign, in_[tag + 1] == '{');
    Advance(tag + 2 + sign.size());
    if (in_[tag + 1] == '#') return Comment();
    if (in_[tag + 1] == '{') return Tag(TokenKind::kVariableBegin, TokenKind::kVariableEnd, "}}");
    const size_t raw_end = RawBegin();
    if (raw_end > 0) {
      Advance(raw_end);
      return Raw();
    }
    return Tag(TokenKind::kBlockBegin, TokenKind::kBlockEnd, "%}");
  }

  // Data before a tag: "-" strips all white space; else, before a block or comment that stands
  // first in its line, the indentation goes (lstrip_blocks).
  void AddStripped(std::string_view text, std::string_view sign, bool variable) {
    const bool line_starting = pos_ == 0 || in_[pos_ - 1] == '\n';
    if (sign == "-") {
      text = text.substr(0, text.size() - TrailingSpace(text));
    } else if (sign.empty() && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || line_starting) && LeadingSpace(text.substr(line)) == text.size() - line) {
        text = text.substr(0, line);
      }
    }
    if (!text.empty()) Add(TokenKind::kData, std::string(text));
  }

  // The end of a tag at `pos`: "-" strips white space, "+" keeps the newline, none drops one
  // newline (trim_blocks). 0 if no tag ends here.
  size_t TagEnd(size_t pos, std::string_view close) const {
    const bool variable = close == "}}";
    if (At(pos, StrCat("-", close))) return SkipSpace(pos + 3);
    if (!variable && At(pos, StrCat("+", close))) return pos + 3;
    if (!At(pos, close)) return 0;
    return pos + (!variable && At(pos + 2, "\n") ? 3 : 2);
  }

  absl::Status Comment() {
    const size_t close = in_.find("#}", pos_);
    if (close == std::string_view::npos) return ErrorAt(line_, "Missing end of comment tag");
    const bool sign = close > pos_ && (in_[close - 1] == '-' || in_[close - 1] == '+');
    Advance(TagEnd(sign ? close - 1 : close, "#}"));
    return absl::OkStatus();
  }

  // The end of "raw %}" after "{%", or 0.
  size_t RawBegin() const {
    size_t pos = SkipSpace(pos_);
    if (!At(pos, "raw")) return 0;
    pos = SkipSpace(pos + 3);
    if (At(pos, "-%}")) return SkipSpace(pos + 3);
    return At(pos, "%}") ? pos + 2 : 0;
  }

  absl::Status Raw() {
    for (size_t tag = in_.find("{%", pos_); tag != std::string_view::npos;
         tag = in_.find("{%", tag + 1)) {
      std::string_view sign = in_.substr(tag + 2, 1);
      if (sign != "-" && sign != "+") sign = "";
      size_t pos = SkipSpace(tag + 2 + sign.size());
      if (!At(pos, "endraw")) continue;
      const size_t end = TagEnd(SkipSpace(pos + 6), "%}");
      if (end == 0) continue;
      AddStripped(in_.substr(pos_, tag - pos_), sign, false);
      Advance(end);
      return absl::OkStatus();
    }
    return ErrorAt(line_, "Missing end of raw directive");
  }

  absl::Status Tag(TokenKind begin, TokenKind end, std::string_view close) {
    Add(begin);
    std::string open_brackets;
    while (true) {
      if (tokens_.size() > kTokensMax) return ErrorAt(line_, "the template is too long");
      if (open_brackets.empty()) {
        const size_t tag_end = TagEnd(pos_, close);
        if (tag_end > 0) {
          Add(end);
          Advance(tag_end);
          return absl::OkStatus();
        }
      }
      if (pos_ >= in_.size()) return ErrorAt(line_, "unexpected end of template");
      const size_t space = LeadingSpace(in_.substr(pos_));
      if (space > 0) {
        Advance(pos_ + space);
      } else {
        RETURN_IF_ERROR(TagToken(open_brackets));
      }
    }
  }

  absl::Status TagToken(std::string& open_brackets) {
    const char c = in_[pos_];
    if (IsDigit(c)) return Number();
    if (IsNameByte(c)) {
      size_t end = pos_;
      while (end < in_.size() && IsNameByte(in_[end])) ++end;
      Add(TokenKind::kName, std::string(in_.substr(pos_, end - pos_)));
      Advance(end);
      return absl::OkStatus();
    }
    if (c == '"' || c == '\'') return String();
    return Operator(open_brackets);
  }

  absl::Status Operator(std::string& open_brackets) {
    static constexpr std::array<std::string_view, 25> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};
    for (const std::string_view op : kOperators) {
      if (!At(op)) continue;
      if (op == "(" || op == "[" || op == "{") {
        open_brackets.push_back(op == "(" ? ')' : op == "[" ? ']' : '}');
      } else if (op == ")" || op == "]" || op == "}") {
        if (open_brackets.empty() || open_brackets.back() != op[0]) {
          return ErrorAt(line_, StrCat("unexpected '", op, "'"));
        }
        open_brackets.pop_back();
      }
      Add(TokenKind::kOperator, std::string(op));
      Advance(pos_ + op.size());
      return absl::OkStatus();
    }
    const size_t bytes = NextUtf8(in_.substr(pos_)).bytes;
    return ErrorAt(line_, StrCat("unexpected char '", in_.substr(pos_, bytes), "'"));
  }

  // Digits with single underscores between them, from `pos`; the end of them.
  size_t Digits(size_t pos) const {
    while (pos < in_.size() && (IsDigit(in_[pos]) || (in_[pos] == '_' && pos + 1 < in_.size() &&
                                                      IsDigit(in_[pos + 1])))) {
      ++pos;
    }
    return pos;
  }

  absl::Status Number() {
    size_t end = Digits(pos_);
    bool is_float = false;
    // In "a.0.1" the numbers are subscripts, not a fraction.
    if (pos_ == 0 || in_[pos_ - 1] != '.') {
      if (At(end, ".") && end + 1 < in_.size() && IsDigit(in_[end + 1])) {
        end = Digits(end + 1);
        is_float = true;
      }
      if (At(end, "e") || At(end, "E")) {
        size_t exponent = end + 1;
        if (At(exponent, "+") || At(exponent, "-")) ++exponent;
        if (exponent < in_.size() && IsDigit(in_[exponent])) {
          end = Digits(exponent);
          is_float = true;
        }
      }
    }
    std::string digits(in_.substr(pos_, end - pos_));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Token token{is_float ? TokenKind::kFloat : TokenKind::kInteger, line_, digits, 0, 0};
    const char* last = digits.data() + digits.size();
    const auto result = is_float ? std::from_chars(digits.data(), last, token.number)
                                 : std::from_chars(digits.data(), last, token.integer);
    if (result.ec != std::errc() || result.ptr != last) {
      return ErrorAt(line_, StrCat("unsupported: number ", digits));
    }
    tokens_.push_back(std::move(token));
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status String() {
    const char quote = in_[pos_];
    size_t end = pos_ + 1;
    while (end < in_.size() && in_[end] != quote) end += in_[end] == '\\' ? 2 : 1;
    if (end >= in_.size()) return ErrorAt(line_, "a string has no end");
    absl::StatusOr<std::string> value = Unescape(in_.substr(pos_ + 1, end - pos_ - 1));
    if (!value.ok()) return value.status();
    Add(TokenKind::kString, *std::move(value));
    Advance(end + 1);
    return absl::OkStatus();
  }

  // Escapes as in a Python string; an unknown one stays as it is written.
  absl::StatusOr<std::string> Unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        out.push_back(text[i]);
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view kNames = "\\'\"abfnrtv";
      constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
      const size_t named = kNames.find(c);
      const size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
      uint32_t code = 0;
      if (c == '\n') continue;
      if (named != std::string_view::npos) {
        out.push_back(kValues[named]);
      } else if (hex > 0) {
        const std::string_view digits = text.substr(i + 1, hex);
        const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
        if (digits.size() != hex || result.ptr != digits.data() + hex || code > 0x10FFFF ||
            (code >= 0xD800 && code <= 0xDFFF)) {
          return ErrorAt(line_, "unsupported: escape in a string");
        }
        AppendUtf8(code, out);
        i += hex;
      } else if (c >= '0' && c <= '7') {
        size_t digits = 0;
        for (; digits < 3 && i + digits < text.size() && text[i + digits] >= '0' &&
               text[i + digits] <= '7';
             ++digits) {
          code = code * 8 + static_cast<uint32_t>(text[i + digits] - '0');
        }
        AppendUtf8(code, out);
        i += digits - 1;
      } else if (c == 'N') {
        return ErrorAt(line_, "unsupported: \\N in a string");
      } else {
        out.push_back('\\');
        out.push_back(c);
      }
    }
    return out;
  }

  std::string source_;
  std::string_view in_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  Lexer lexer(NormalizeNewlines(source));
  return lexer.Run();
}

}  // namespace trireme::jinja
