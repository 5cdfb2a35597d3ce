#include "coordinator/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

// Start of the last character of non-empty valid text.
size_t LastCharacter(std::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80) --pos;
  return pos;
}

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  return IsWordCharacter(NextUtf8(text.substr(LastCharacter(text))).code_point);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(NextUtf8(text).code_point);
}

size_t TrailingSpaceBegin(std::string_view text) {
  while (!text.empty()) {
    const size_t pos = LastCharacter(text);
    if (!IsWhiteSpace(NextUtf8(text.substr(pos)).code_point)) break;
    text = text.substr(0, pos);
  }
  return text.size();
}

size_t LeadingSpaceBytes(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(bytes));
    if (!IsWhiteSpace(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

uint64_t EdgeKey(uint32_t node, char byte) {
  return (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(byte);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  ends_.push_back(-1);  // the root
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (content.empty()) continue;
    starts_[static_cast<uint8_t>(content[0])] = true;
    uint32_t node = 0;
    for (const char byte : content) {
      const auto [it, added] =
          edges_.emplace(EdgeKey(node, byte), static_cast<uint32_t>(ends_.size()));
      if (added) ends_.push_back(-1);
      node = it->second;
    }
    ends_[node] = static_cast<int32_t>(i);
  }
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto it = edges_.find(EdgeKey(node, byte));
    if (it == edges_.end()) break;
    node = it->second;
    if (ends_[node] >= 0) longest = ends_[node];
  }
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
    if (token.lstrip) begin = std::max(done, TrailingSpaceBegin(text.substr(0, begin)));
    if (token.rstrip) end += LeadingSpaceBytes(text.substr(end));
    if (begin > done) segments.push_back({text.substr(done, begin - done)});
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = end;
    // Stripped white space may itself begin a token; what is given out stays given out.
    pos = std::max(pos, done);
  }
  if (done < text.size()) segments.push_back({text.substr(done)});
}

}  // namespace trireme
