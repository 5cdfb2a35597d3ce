#include "coordinator/text/bpe.h"

#include <random>
#include <string>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"

namespace trireme {
namespace {

// A vocabulary of the bytes and of random merges, mostly of few letters so that they nest.
Bpe::Spec RandomSpec(std::mt19937& random, int merges) {
  Bpe::Spec spec;
  for (int byte = 0; byte < 256; ++byte) {
    std::string symbol;
    AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
    spec.vocab.emplace_back(symbol, byte);
  }
  std::vector<std::string> parts = {"a", "b", "c"};
  StringMap<bool> known;
  for (int i = 0; i < merges; ++i) {
    const std::string left = parts[random() % parts.size()];
    const std::string right = parts[random() % parts.size()];
    if (left.size() + right.size() > 12 || !known.emplace(left + right, true).second) continue;
    spec.merges.emplace_back(left, right);
    spec.vocab.emplace_back(left + right, static_cast<int32_t>(spec.vocab.size()));
    parts.push_back(left + right);
  }
  return spec;
}

TEST(Bpe, ScanHeapAndWordTableAgree) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const auto bpe = Bpe::Create(RandomSpec(random, 60));
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    for (int i = 0; i < 50; ++i) {
      std::string word(1 + random() % 30, 'a');
      for (char& c : word) c = static_cast<char>('a' + random() % 4);
      std::vector<int32_t> by_scan;
      std::vector<int32_t> by_heap;
      std::vector<int32_t> by_encode;
      bpe->MergeShort(word, by_scan);
      bpe->MergeLong(word, by_heap);
      bpe->Encode(word, by_encode);
      ASSERT_EQ(by_scan, by_heap) << word;
      ASSERT_EQ(by_scan, by_encode) << word;
    }
  }
}

TEST(Bpe, RefusesBadTables) {
  std::mt19937 random(1);
  const Bpe::Spec good = RandomSpec(random, 10);
  Bpe::Spec spec = good;
  spec.vocab.emplace_back("zz", 7);
  EXPECT_FALSE(Bpe::Create(spec).ok()) << "an id twice";
  spec = good;
  spec.vocab.emplace_back("a", 9999);
  EXPECT_FALSE(Bpe::Create(spec).ok()) << "an entry twice";
  spec = good;
  spec.vocab.emplace_back("zz", -1);
  EXPECT_FALSE(Bpe::Create(spec).ok()) << "a negative id";
  spec = good;
  spec.merges.emplace_back("x", "y");
  EXPECT_FALSE(Bpe::Create(spec).ok()) << "a merge that gives no entry";
  spec = good;
  spec.vocab.erase(spec.vocab.begin());
  EXPECT_FALSE(Bpe::Create(spec).ok()) << "a byte without entry";
}

}  // namespace
}  // namespace trireme
