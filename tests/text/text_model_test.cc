// The text models by themselves; what they make of real vocabularies is in tokenizer_golden_test.cc
// and gguf_tokenizer_test.cc.

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/byte_level_bpe.h"
#include "coordinator/text/merge_table.h"
#include "coordinator/text/scored_bpe.h"
#include "coordinator/text/unigram.h"
#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

struct Spec {
  std::vector<std::string> texts;  // by id: the bytes, then what is merged
  std::vector<std::pair<std::string, std::string>> merges;

  std::shared_ptr<const Vocabulary> MakeVocabulary() const {
    std::vector<Vocabulary::Token> tokens;
    for (const std::string& text : texts) tokens.push_back({text, true, false, true});
    auto vocabulary = Vocabulary::Create(tokens);
    EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
    return std::make_shared<const Vocabulary>(*std::move(vocabulary));
  }
};

// The bytes and random merges, mostly of few letters so that they nest.
Spec RandomSpec(std::mt19937& random, int merges) {
  Spec spec;
  for (int byte = 0; byte < 256; ++byte) {
    AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), spec.texts.emplace_back());
  }
  std::vector<std::string> parts = {"a", "b", "c"};
  for (int i = 0; i < merges; ++i) {
    const std::string left = parts[random() % parts.size()];
    const std::string right = parts[random() % parts.size()];
    const std::string merged = left + right;
    if (merged.size() > 12 ||
        std::find(spec.texts.begin(), spec.texts.end(), merged) != spec.texts.end()) {
      continue;
    }
    spec.merges.emplace_back(left, right);
    spec.texts.push_back(merged);
    parts.push_back(merged);
  }
  return spec;
}

TEST(MergeTable, ScanHeapAndWordLookupAgree) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const Spec spec = RandomSpec(random, 60);
    const auto vocabulary = spec.MakeVocabulary();
    MergeTable::Builder builder(*vocabulary, "merges", spec.merges.size());
    for (const auto& [left, right] : spec.merges) ASSERT_TRUE(builder.Add(left, right).ok());
    const MergeTable table = std::move(builder).Build();
    const auto bpe = ByteLevelBpe::Create(vocabulary, table, /*ignore_merges=*/false);
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    for (int i = 0; i < 50; ++i) {
      std::string word(1 + random() % 30, 'a');
      for (char& c : word) c = static_cast<char>('a' + random() % 4);
      Ids by_scan;
      for (const char c : word) by_scan.push_back(vocabulary->Find(std::string(1, c)));
      Ids by_heap = by_scan;
      Ids by_encode;
      table.ApplyShort(by_scan, 0);
      table.ApplyLong(by_heap, 0);
      (*bpe)->Encode(word, by_encode);
      ASSERT_EQ(by_scan, by_heap) << word;
      ASSERT_EQ(by_scan, by_encode) << word;
    }
  }
}

TEST(MergeTable, RefusesWhatIsNotInTheVocabulary) {
  std::mt19937 random(1);
  const auto vocabulary = RandomSpec(random, 10).MakeVocabulary();
  MergeTable::Builder builder(*vocabulary, "model.merges", 1);
  const absl::Status status = builder.Add("x", "y");
  EXPECT_EQ(status.message(), "model.merges[0]: \"x\" + \"y\": \"xy\" is not in the vocabulary");
  EXPECT_FALSE(builder.Add("", "y").ok());
  EXPECT_FALSE(builder.Add("y", "").ok());
}

TEST(ByteLevelBpe, NeedsEveryByte) {
  std::mt19937 random(1);
  Spec spec = RandomSpec(random, 10);
  spec.texts[7] = "gone";
  EXPECT_FALSE(ByteLevelBpe::Create(spec.MakeVocabulary(), MergeTable(), false).ok());
}

TEST(Vocabulary, RefusesTheSameTextTwice) {
  const Vocabulary::Token token{"a", true, false, true};
  EXPECT_FALSE(Vocabulary::Create(std::vector{token, token}).ok());
  const auto one = Vocabulary::Create(std::vector{Vocabulary::Token{}, token});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->Find("a"), 1);
  EXPECT_EQ(one->Find(""), -1);
  EXPECT_EQ(one->Text(0), "");
  EXPECT_EQ(one->Text(5), "");
}

TEST(ScoredBpe, RefusesMissingBytesAndScores) {
  std::vector<Vocabulary::Token> tokens = {{"a", true, false, true}};
  auto vocabulary = std::make_shared<const Vocabulary>(*Vocabulary::Create(tokens));
  EXPECT_FALSE(ScoredBpe::Create(vocabulary, {0}).ok());
}

TEST(Unigram, RefusesWhatCannotWork) {
  std::vector<Vocabulary::Token> tokens = {{"a", true, false, true}};
  auto vocabulary = std::make_shared<const Vocabulary>(*Vocabulary::Create(tokens));
  EXPECT_FALSE(Unigram::Create(vocabulary, {0}, {.unknown_id = -1}).ok());
  EXPECT_FALSE(Unigram::Create(vocabulary, {0}, {.unknown_id = 1}).ok());
  EXPECT_FALSE(Unigram::Create(vocabulary, {NAN}, {.unknown_id = 0}).ok());
  EXPECT_TRUE(Unigram::Create(vocabulary, {0}, {.unknown_id = 0}).ok());
}

}  // namespace
}  // namespace trireme
