// Oniguruma → PCRE2, for the constructs that pre-tokenizer patterns use. Only what is known to mean
// the same, or is rewritten so that it does, passes.

#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "coordinator/text/regex.h"
#include "coordinator/text/strings.h"

namespace trireme {
namespace {

// White_Space of Unicode. PCRE2's own \s also has U+180E.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
// Alphabetic, marks, decimal digits, connectors. PCRE2's \w is letters, numbers and underscore.
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < in_.size()) RETURN_IF_ERROR(Next());
    if (in_class_) return Unsupported("[ without ]");
    return std::move(out_);
  }

 private:
  absl::Status Unsupported(std::string_view what) const {
    return absl::InvalidArgumentError(StrCat("unsupported: ", what, " in regex \"", in_, "\""));
  }

  bool At(std::string_view text) const { return in_.substr(pos_, text.size()) == text; }

  void Copy(size_t bytes) {
    out_.append(in_.substr(pos_, bytes));
    pos_ += bytes;
  }

  absl::Status Next() {
    const char c = in_[pos_];
    if (c == '\\') return Escape();
    if (in_class_) return NextInClass();
    if (c == '[') {
      in_class_ = true;
      Copy(At("[^") ? 2 : 1);
      // A ']' that comes first is a literal in both, but Oniguruma warns; nobody writes it.
      if (At("]")) return Unsupported("empty []");
      return absl::OkStatus();
    }
    if (At("(?")) return Group();
    if (At("(*")) return Unsupported("(*");
    if (c == '}') return CloseBrace();
    if (At("{,")) return Unsupported("{,");  // {0, in Oniguruma, a literal in PCRE2
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status NextInClass() {
    if (At("[")) return Unsupported("[ inside []");  // a nested class in Oniguruma
    if (At("&&")) return Unsupported("&& inside []");
    if (At("]")) in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Group() {
    for (const std::string_view opening :
         {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)"}) {
      if (At(opening)) {
        Copy(opening.size());
        return absl::OkStatus();
      }
    }
    return Unsupported(in_.substr(pos_, 4));
  }

  // "{1,3}+" is possessive in PCRE2 and a repeated repetition in Oniguruma.
  absl::Status CloseBrace() {
    Copy(1);
    if (At("+")) return Unsupported("}+");
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (pos_ + 1 >= in_.size()) return Unsupported("\\ at the end");
    const char c = in_[pos_ + 1];
    switch (c) {
      case 's':
        return Set(kSpace, false);
      case 'S':
        return Set(kSpace, true);
      case 'w':
        return Set(kWord, false);
      case 'W':
        return Set(kWord, true);
      case 'p':
      case 'P':
        return Property();
      case 'u':
        return CodePoint();
      case 'x':
        return HexCode();
      case 'v':
        out_.append("\\x{0B}");
        pos_ += 2;
        return absl::OkStatus();
      default:
        break;
    }
    constexpr std::string_view kSame = "dDrntfae";
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) &&
        kSame.find(c) == std::string_view::npos) {
      return Unsupported(in_.substr(pos_, 2));
    }
    Copy(static_cast<unsigned char>(c) < 0x80 ? 2 : 1);
    return absl::OkStatus();
  }

  absl::Status Set(std::string_view members, bool negated) {
    if (in_class_ && negated) {
      // PCRE2 has no nested classes; properties can be negated, a list cannot.
      if (members != kSpace) return Unsupported("\\W inside []");
      out_.append("\\P{White_Space}");
    } else if (in_class_) {
      out_.append(members);
    } else {
      StrAppend(out_, negated ? "[^" : "[", members, "]");
    }
    pos_ += 2;
    return absl::OkStatus();
  }

  absl::Status Property() {
    const size_t open = pos_ + 2;
    const size_t close = in_.find('}', open);
    if (open >= in_.size() || in_[open] != '{' || close == std::string_view::npos) {
      return Unsupported("\\p without {…}");
    }
    const std::string_view name = in_.substr(open + 1, close - open - 1);
    const bool caret = !name.empty() && name[0] == '^';
    const std::string_view bare = caret ? name.substr(1) : name;
    for (const char c : bare) {
      if (!absl::ascii_isalpha(static_cast<unsigned char>(c)) && c != '_') {
        return Unsupported(in_.substr(pos_, close + 1 - pos_));
      }
    }
    // Up to two letters: a general category. Longer: a script, which PCRE2 would otherwise widen to
    // Script_Extensions.
    StrAppend(out_, in_.substr(pos_, 2), "{", caret ? "^" : "", bare.size() > 2 ? "sc:" : "", bare,
              "}");
    pos_ = close + 1;
    return absl::OkStatus();
  }

  absl::Status CodePoint() {
    const std::string_view digits = in_.substr(pos_ + 2, 4);
    if (digits.size() != 4) return Unsupported("\\u");
    return AppendCode(digits, 6);
  }

  absl::Status HexCode() {
    if (in_.substr(pos_, 3) == "\\x{") {
      const size_t close = in_.find('}', pos_);
      if (close == std::string_view::npos) return Unsupported("\\x{");
      return AppendCode(in_.substr(pos_ + 3, close - pos_ - 3), close + 1 - pos_);
    }
    const std::string_view digits = in_.substr(pos_ + 2, 2);
    // Above 7F Oniguruma means a raw byte.
    if (digits.size() != 2 || digits[0] > '7') return Unsupported("\\x");
    return AppendCode(digits, 4);
  }

  absl::Status AppendCode(std::string_view digits, size_t bytes) {
    if (digits.empty() || digits.size() > 6) return Unsupported("code point");
    for (const char c : digits) {
      if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return Unsupported("code point");
    }
    StrAppend(out_, "\\x{", digits, "}");
    pos_ += bytes;
    return absl::OkStatus();
  }

  std::string_view in_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> OnigurumaToPcre(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace trireme
