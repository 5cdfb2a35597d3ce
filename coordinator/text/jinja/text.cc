#include "coordinator/text/jinja/text.h"

#include <utf8proc.h>

#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

utf8proc_int32_t Code(char32_t c) { return static_cast<utf8proc_int32_t>(c); }

void AppendUpper(char32_t c, std::string& out) {
  if (c == 0xDF) {
    out.append("SS");
  } else {
    AppendUtf8(static_cast<char32_t>(utf8proc_toupper(Code(c))), out);
  }
}

bool IsLineEnd(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

size_t LastCharacter(std::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80) --pos;
  return pos;
}

}  // namespace

bool IsPythonSpace(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

size_t LeadingSpace(std::string_view text) {
  return text.size() - Strip(text, nullptr, true, false).size();
}

size_t TrailingSpace(std::string_view text) {
  return text.size() - Strip(text, nullptr, false, true).size();
}

std::string_view Strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const std::u32string set = chars == nullptr ? std::u32string() : ToUtf32(*chars);
  const auto strips = [&](char32_t c) {
    return chars == nullptr ? IsPythonSpace(c) : set.find(c) != std::u32string::npos;
  };
  while (left && !text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (!strips(step.code_point)) break;
    text.remove_prefix(step.bytes);
  }
  while (right && !text.empty()) {
    const size_t last = LastCharacter(text);
    if (!strips(NextUtf8(text.substr(last)).code_point)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string Upper(std::string_view text) {
  std::string out;
  for (const char32_t c : ToUtf32(text)) AppendUpper(c, out);
  return out;
}

std::string Lower(std::string_view text) {
  std::string out;
  for (const char32_t c : ToUtf32(text)) {
    AppendUtf8(static_cast<char32_t>(utf8proc_tolower(Code(c))), out);
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  const Utf8Step first = NextUtf8(text);
  std::string out;
  AppendUtf8(static_cast<char32_t>(utf8proc_totitle(Code(first.code_point))), out);
  return out + Lower(text.substr(first.bytes));
}

std::string Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (const char32_t c : ToUtf32(text)) {
    AppendUtf8(
        static_cast<char32_t>(in_word ? utf8proc_tolower(Code(c)) : utf8proc_totitle(Code(c))),
        out);
    in_word = IsCased(c);
  }
  return out;
}

bool IsCased(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(Code(c));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

bool IsLetter(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(Code(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(pos));
    size_t end = pos + step.bytes;
    if (IsLineEnd(step.code_point)) {
      if (text.substr(pos, 2) == "\r\n") ++end;
      lines.push_back(text.substr(begin, (keep_ends ? end : pos) - begin));
      begin = end;
    }
    pos = end;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace trireme::jinja
