#include "coordinator/text/tokenizer.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/text/detokenizer.h"
#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"
#include "tests/text/golden_files.h"

namespace trireme {
namespace {

using nlohmann::json;

// A tokenizer.json that loads, of bytes only, to be broken in one place at a time.
json Small() {
  json file = json::parse(R"({
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 256, "content": "<s>", "special": true}],
    "model": {"type": "BPE", "vocab": {}, "merges": []}})");
  json& vocab = file["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) {
    std::string symbol;
    const bool own = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    static int next = 0;
    if (byte == 0) next = 256;
    AppendUtf8(own ? static_cast<char32_t>(byte) : static_cast<char32_t>(next++), symbol);
    vocab[symbol] = byte;
  }
  return file;
}

TEST(Tokenizer, LoadsSmall) {
  const auto tokenizer = Tokenizer::Parse(Small().dump(), "small");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(*tokenizer->Encode("a<s>"), (std::vector<int32_t>{97, 256}));
  EXPECT_TRUE(tokenizer->IsSpecial(256));
  EXPECT_EQ(tokenizer->TokenToId("<s>"), 256);
  EXPECT_EQ(tokenizer->TokenToId("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(1 << 20), "");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{97, -5, 98, 1 << 20}, false), "ab");
}

TEST(Tokenizer, WhatIsNotSupportedSaysWhere) {
  const std::vector<std::pair<const char*, const char*>> changes = {
      {R"({"model": {"type": "WordPiece"}})", "model.type"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "model.end_of_word_suffix"},
      {R"({"model": {"dropout": 0.1}})", "model.dropout"},
      {R"({"normalizer": {"type": "Nmt"}})", "normalizer"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}]}})",
       "normalizer.normalizers[0]"},
      {R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", "pre_tokenizer.type"},
      {R"({"post_processor": {"type": "BertProcessing"}})", "post_processor"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder"},
      {R"({"decoder": {"type": "Fuse"}})", "decoder"},
      {R"({"decoder": null})", "decoder"},
  };
  for (const auto& [patch, key] : changes) {
    json file = Small();
    file.merge_patch(json::parse(patch));
    const auto tokenizer = Tokenizer::Parse(file.dump(), "dir/tokenizer.json");
    ASSERT_FALSE(tokenizer.ok()) << patch;
    const std::string message(tokenizer.status().message());
    EXPECT_NE(message.find("dir/tokenizer.json: unsupported: "), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
  }
}

TEST(Tokenizer, WhatIsWrongIsRefused) {
  for (const char* patch : {
           R"({"model": {"vocab": {"zz": 5}}})",
           R"({"model": {"vocab": {"zz": -1}}})",
           R"({"model": {"vocab": {"zz": 1.5}}})",
           R"({"model": {"vocab": {"zz": 4000000000}}})",
           R"({"model": {"vocab": {"zz": 2000000000}}})",
           R"({"model": {"merges": ["ab"]}})",
           R"({"model": {"merges": [["a"]]}})",
           R"({"model": {"merges": ["a b"]}})",
           R"({"model": {"merges": 3}})",
           R"({"model": 3})",
           R"({"added_tokens": [{"id": 97, "content": "x9"}]})",
           R"({"added_tokens": [{"id": 300, "content": "a"}]})",
           R"({"added_tokens": [{"id": 300, "content": ""}]})",
           R"({"added_tokens": [3]})",
           R"({"post_processor": {"type": "TemplateProcessing", "single": [{}]}})",
           R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}})",
       }) {
    json file = Small();
    file.merge_patch(json::parse(patch));
    EXPECT_FALSE(Tokenizer::Parse(file.dump(), "t").ok()) << patch;
  }
  EXPECT_FALSE(Tokenizer::Parse("", "t").ok());
  EXPECT_FALSE(Tokenizer::Parse("[]", "t").ok());
  EXPECT_EQ(Tokenizer::Load("/nonexistent").status().code(), absl::StatusCode::kNotFound);
}

TEST(Tokenizer, IllFormedTextCountsAsReplacementCharacters) {
  const Tokenizer& tokenizer = GoldenTokenizer("qwen2");
  EXPECT_EQ(*tokenizer.Encode("a\xff\xe4\xb8z"), *tokenizer.Encode("a\uFFFD\uFFFDz"));
}

// One word of a megabyte: quadratic merging would take hours.
class LongWords : public testing::TestWithParam<const char*> {};

TEST_P(LongWords, TakeNoQuadraticTime) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  for (const char* unit : {"a", " ", "\n", "ab", "中", "!", " \n", "é"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const auto begin = std::chrono::steady_clock::now();
    const auto ids = tokenizer.Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_FALSE(ids->empty());
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30)) << unit;
    if (std::string_view(GetParam()) == "t5") continue;  // its normalizer changes white space
    EXPECT_EQ(tokenizer.Decode(*ids, true), text);
  }
}

INSTANTIATE_TEST_SUITE_P(All, LongWords, testing::Values("llama3", "llama2", "gemma", "t5"),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST(Tokenizer, ManyThreadsMayEncode) {
  const Tokenizer& tokenizer = GoldenTokenizer("qwen2");
  const std::string text = "The quick brown fox, 12345 naïve cafés\n\n";
  const auto want = *tokenizer.Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> failures(4, 0);
  for (size_t t = 0; t < failures.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) failures[t] += *tokenizer.Encode(text) == want ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, std::vector<int>(4, 0));
}

TEST(Detokenizer, GivesOnlyWholeCharacters) {
  const auto tokenizer = Tokenizer::Parse(Small().dump(), "small");
  ASSERT_TRUE(tokenizer.ok());
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xE4), "");
  EXPECT_EQ(detokenizer.Append(256), "") << "special tokens give nothing and break nothing";
  EXPECT_EQ(detokenizer.Append(0xB8), "");
  EXPECT_EQ(detokenizer.Append(0xAD), "中");
  EXPECT_EQ(detokenizer.Append(0xE4), "");
  EXPECT_EQ(detokenizer.Append('x'), "\uFFFDx");
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

}  // namespace
}  // namespace trireme
