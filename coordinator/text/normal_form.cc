#include "coordinator/text/normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

int CombiningClass(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// ASCII is in every form. Every character below U+0300 is in NFC and does not compose with one
// before it; their lead bytes are below 0xCC.
bool IsTriviallyNormal(std::string_view text, NormalForm form) {
  const uint8_t limit = form == NormalForm::kNfc ? 0xCC : 0x80;
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return static_cast<uint8_t>(c) < limit; });
}

std::vector<utf8proc_int32_t> Decompose(std::string_view text, bool compatibility) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                                                      (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size() / 2);
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    text.remove_prefix(step.bytes);
    std::array<utf8proc_int32_t, 32> buffer;  // the longest decomposition, of U+FDFA, has 18
    int last_boundclass = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), buffer.data(),
                                buffer.size(), options, &last_boundclass);
    CHECK(count >= 0 && static_cast<size_t>(count) <= buffer.size());
    out.insert(out.end(), buffer.begin(), buffer.begin() + count);
  }
  return out;
}

// Canonical ordering. Done here because utf8proc's own takes quadratic time on a long run of marks.
void SortMarks(std::vector<utf8proc_int32_t>& text) {
  std::vector<std::pair<int, utf8proc_int32_t>> run;
  for (size_t i = 0; i < text.size();) {
    if (CombiningClass(text[i]) == 0) {
      ++i;
      continue;
    }
    run.clear();
    const size_t begin = i;
    for (; i < text.size() && CombiningClass(text[i]) != 0; ++i) {
      run.emplace_back(CombiningClass(text[i]), text[i]);
    }
    std::stable_sort(run.begin(), run.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t j = 0; j < run.size(); ++j) text[begin + j] = run[j].second;
  }
}

}  // namespace

std::string Normalize(std::string_view text, NormalForm form) {
  if (IsTriviallyNormal(text, form)) return std::string(text);
  const bool compatibility = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  std::vector<utf8proc_int32_t> code_points = Decompose(text, compatibility);
  SortMarks(code_points);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    const utf8proc_ssize_t length = utf8proc_normalize_utf32(
        code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    CHECK(length >= 0);
    code_points.resize(static_cast<size_t>(length));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : code_points) AppendUtf8(static_cast<char32_t>(c), out);
  return out;
}

}  // namespace trireme
