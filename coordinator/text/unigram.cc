#include "coordinator/text/unigram.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr double kUnknownPenalty = 10;

}  // namespace

absl::StatusOr<std::unique_ptr<Unigram>> Unigram::Create(
    std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores, Options options) {
  if (options.unknown_id < 0 || options.unknown_id >= vocabulary->size()) {
    return absl::InvalidArgumentError(
        "unsupported: no unknown token, so that some texts have no tokens");
  }
  if (vocabulary->piece_bytes_max() > kPieceBytesMax) {
    return absl::InvalidArgumentError(StrCat("unsupported: a piece of ",
                                             vocabulary->piece_bytes_max(), " bytes, more than ",
                                             kPieceBytesMax));
  }
  std::unique_ptr<Unigram> result(new Unigram());
  double smallest = INFINITY;
  for (int32_t id = 0; id < vocabulary->size(); ++id) {
    if (!vocabulary->IsPiece(id)) continue;
    const double score = scores[static_cast<size_t>(id)];
    if (!std::isfinite(score)) {
      return absl::InvalidArgumentError(StrCat("the score of token ", id, " is not finite"));
    }
    smallest = std::min(smallest, score);
    result->trie_.Insert(vocabulary->Text(id), id);
  }
  result->unknown_score_ = smallest - kUnknownPenalty;
  result->byte_id_ = BytePieces(*vocabulary);
  result->vocabulary_ = std::move(vocabulary);
  result->scores_ = std::move(scores);
  result->options_ = options;
  return result;
}

std::vector<Unigram::Step> Unigram::BestSteps(std::string_view word) const {
  std::vector<Step> steps(word.size() + 1);
  for (size_t begin = 0; begin < word.size();) {
    const double score = steps[begin].score;
    const size_t character = NextUtf8(word.substr(begin)).bytes;
    const auto offer = [&](size_t bytes, int32_t id, double piece_score) {
      Step& step = steps[begin + bytes];
      if (step.begin >= 0 && score + piece_score <= step.score) return;
      step = {id, static_cast<int32_t>(begin), score + piece_score};
    };
    bool single = false;  // a piece of just this character
    trie_.ForEachPrefix(word.substr(begin), [&](size_t bytes, int32_t id) {
      offer(bytes, id, scores_[static_cast<size_t>(id)]);
      single |= bytes == character;
    });
    if (!single) offer(character, options_.unknown_id, unknown_score_);
    begin += character;
  }
  return steps;
}

void Unigram::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  const std::vector<Step> steps = BestSteps(word);
  std::vector<std::pair<size_t, size_t>> pieces;  // [begin, end), from the last to the first
  bool unknown_before = false;
  for (size_t end = word.size(); end > 0;) {
    const Step& step = steps[end];
    const auto begin = static_cast<size_t>(step.begin);
    const bool unknown = step.id == options_.unknown_id;
    if (unknown && unknown_before) {
      pieces.back().first = begin;  // neighbouring unknown characters are one
    } else {
      pieces.emplace_back(begin, end);
    }
    unknown_before = unknown;
    end = begin;
  }
  for (auto it = pieces.rbegin(); it != pieces.rend(); ++it) {
    const std::string_view text = word.substr(it->first, it->second - it->first);
    const int32_t id = vocabulary_->FindPiece(text);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      AppendUnknown(text, ids);
    }
  }
}

void Unigram::AppendUnknown(std::string_view text, std::vector<int32_t>& ids) const {
  const auto id = [&](char c) { return byte_id_[static_cast<uint8_t>(c)]; };
  if (options_.byte_fallback &&
      std::all_of(text.begin(), text.end(), [&](char c) { return id(c) >= 0; })) {
    for (const char c : text) ids.push_back(id(c));
  } else {
    ids.push_back(options_.unknown_id);
  }
}

}  // namespace trireme
