#include "coordinator/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  return IsWordCharacter(NextUtf8(text.substr(LastCharacter(text))).code_point);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(NextUtf8(text).code_point);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (content.empty()) continue;
    starts_[static_cast<uint8_t>(content[0])] = true;
    trie_.Insert(content, static_cast<int32_t>(i));
  }
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text) const {
  int32_t longest = -1;
  trie_.ForEachPrefix(text, [&](size_t, int32_t index) { longest = index; });
  return longest;
}

void AddedTokenMatcher::Split(std::string_view text, bool parse_special,
                              std::vector<TextSegment>& segments) const {
  size_t done = 0;  // the end of what has been given out
  for (size_t pos = 0; pos < text.size();) {
    const int32_t found =
        starts_[static_cast<uint8_t>(text[pos])] ? LongestAt(text.substr(pos)) : -1;
    if (found < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t begin = pos;
    size_t end = pos + token.content.size();
    pos = end;  // also a match that is refused below is not searched again
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(done, TrailingWhiteSpaceBegin(text.substr(0, begin)));
    if (token.rstrip) end += LeadingWhiteSpaceBytes(text.substr(end));
    if (begin > done) segments.push_back({text.substr(done, begin - done)});
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = end;
    // Stripped white space may itself begin a token; what is given out stays given out.
    pos = std::max(pos, done);
  }
  if (done < text.size()) segments.push_back({text.substr(done)});
}

}  // namespace trireme
