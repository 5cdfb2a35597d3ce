// Tokenizers and chat templates out of GGUF metadata: what is refused, and what the keys mean. The
// ids of whole vocabularies are in corpus_golden_test.cc.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/gguf_pre_tokenizer.h"
#include "coordinator/text/gguf_tokens.h"
#include "coordinator/text/pre_tokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"
#include "gtest/gtest.h"
#include "parallel/gguf_file.h"
#include "tests/gguf_writer.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

// The parts of a small file, to be broken in one place at a time.
struct Parts {
  std::string model;
  std::string pre = "qwen2";
  std::vector<std::string> tokens = {};
  std::vector<int32_t> types = {};
  std::vector<std::string> merges = {};
  std::vector<float> scores = {};
  std::function<void(GgufWriter&)> more = [](GgufWriter&) {};

  std::string File() const {
    GgufWriter writer;
    writer.Text("tokenizer.ggml.model", model);
    writer.Texts("tokenizer.ggml.tokens", tokens);
    writer.List("tokenizer.ggml.token_type", kGgufInt32, types);
    if (model == "gpt2") writer.Text("tokenizer.ggml.pre", pre);
    if (!merges.empty()) writer.Texts("tokenizer.ggml.merges", merges);
    if (!scores.empty()) writer.List("tokenizer.ggml.scores", kGgufFloat32, scores);
    more(writer);
    return writer.File();
  }
  void Add(const std::string& token, int32_t type, float score = 0) {
    tokens.push_back(token);
    types.push_back(type);
    if (model != "gpt2") scores.push_back(score);
  }
};

// Bytes 0 to 255, 256 "ab", 257 "<|im_end|>".
Parts Gpt2() {
  Parts parts{.model = "gpt2"};
  for (int byte = 0; byte < 256; ++byte) {
    std::string symbol;
    AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
    parts.Add(symbol, 1);
  }
  parts.Add("ab", 1);
  parts.Add("<|im_end|>", 1);  // known by its text, whatever the file says
  parts.merges = {"a b"};
  parts.more = [](GgufWriter& writer) { writer.Uint("tokenizer.ggml.eos_token_id", 257); };
  return parts;
}

// 0 to 2 as in Llama 2, 3 to 258 the bytes, 259 "▁", 260 "a", 261 "b", 262 "ab", 263 "▁a",
// 264 "\n\n" of the user, 265 unused.
Parts Llama() {
  Parts parts{.model = "llama"};
  parts.Add("<unk>", 2);
  parts.Add("<s>", 3);
  parts.Add("</s>", 3);
  for (int byte = 0; byte < 256; ++byte) parts.Add(BytePieceText(static_cast<uint8_t>(byte)), 6);
  parts.Add("▁", 1, -4);
  parts.Add("a", 1, -4);
  parts.Add("b", 1, -4);
  parts.Add("ab", 1, -2);
  parts.Add("▁a", 1, -3);
  parts.Add("\n\n", 4, -1000);
  parts.Add("<unused0>", 5, -1000);
  return parts;
}

// 0 to 2 as in T5, 3 "▁", 4 "▁a", 5 "b", 6 "ab".
Parts T5() {
  Parts parts{.model = "t5"};
  parts.Add("<pad>", 3);
  parts.Add("</s>", 3);
  parts.Add("<unk>", 2);
  parts.Add("▁", 1, -2);
  parts.Add("▁a", 1, -3);
  parts.Add("b", 1, -3);
  parts.Add("ab", 1, -3.5);
  return parts;
}

absl::StatusOr<Tokenizer> Load(const Parts& parts) {
  const std::string bytes = parts.File();
  const auto file = GgufFile::Parse(AsBytes(bytes), "test.gguf");
  if (!file.ok()) return file.status();
  const auto tokens = GgufTokens::Read(*file);
  if (!tokens.ok()) return tokens.status();
  return Tokenizer::FromGguf(*file, *tokens);
}

TEST(GgufTokenizer, ByteLevel) {
  const auto tokenizer = Load(Gpt2());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->vocab_size(), 258);
  EXPECT_EQ(*tokenizer->Encode("ab a<|im_end|>"), (Ids{256, 32, 97, 257}));
  EXPECT_EQ(tokenizer->Encode("<|im_end|>", {.parse_special = false})->size(), 10U);
  EXPECT_TRUE(tokenizer->IsSpecial(257));
  EXPECT_EQ(tokenizer->Decode(Ids{256, 32, 257}, true), "ab ");
  EXPECT_EQ(tokenizer->TokenToId("Ġ"), 32);

  // Padding without a text, which files may have.
  Parts padded = Gpt2();
  padded.Add("", 5);
  padded.Add("", 1);
  const auto with_padding = Load(padded);
  ASSERT_TRUE(with_padding.ok()) << with_padding.status();
  EXPECT_EQ(*with_padding->Encode("ab a"), (Ids{256, 32, 97}));
  EXPECT_EQ(with_padding->Decode(Ids{258, 256, 259}, true), "ab");
}

TEST(GgufTokenizer, SentencePiece) {
  const auto tokenizer = Load(Llama());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // "ab" has the larger score of the two.
  EXPECT_EQ(*tokenizer->Encode("ab"), (Ids{1, 259, 262}));
  EXPECT_EQ(*tokenizer->Encode("a</s>a"), (Ids{1, 263, 2, 263}));
  EXPECT_EQ(*tokenizer->Encode("\n\né", {.add_special_tokens = false}),
            (Ids{264, 259, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer->Decode(Ids{1, 263, 262, 265, 3 + 0xC3, 3 + 0xA9}, true), "aabé");
  EXPECT_EQ(tokenizer->TokenBytes(263), " a");
  // Nobody writes a control token or a byte by its text.
  const Ids forged = *tokenizer->Encode("</s><0x41>", {.parse_special = false});
  EXPECT_EQ(std::count(forged.begin(), forged.end(), 2), 0);
  EXPECT_EQ(std::count(forged.begin(), forged.end(), 3 + 0x41), 0);

  Parts parts = Llama();
  parts.more = [](GgufWriter& writer) {
    writer.Bool("tokenizer.ggml.add_space_prefix", false);
    writer.Bool("tokenizer.ggml.add_bos_token", false);
    writer.Bool("tokenizer.ggml.add_eos_token", true);
  };
  EXPECT_EQ(*Load(parts)->Encode("ab"), (Ids{262, 2}));
}

// Sums of scores: "▁" + "ab" is -5.5, "▁a" + "b" -6.
TEST(GgufTokenizer, Unigram) {
  Parts parts = T5();
  const auto plain = Load(parts);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(*plain->Encode(" ab  ab"), (Ids{3, 6, 3, 3, 6, 1}));
  EXPECT_EQ(*plain->Encode("éab"), (Ids{2, 6, 1}));
  EXPECT_EQ(*plain->Encode("ab</s>b"), (Ids{6, 1, 5, 1}));
  EXPECT_EQ(plain->Decode(Ids{3, 6, 4, 1}, true), " ab a");

  parts.more = [](GgufWriter& writer) {
    writer.Bool("tokenizer.ggml.remove_extra_whitespaces", true);
  };
  EXPECT_EQ(*Load(parts)->Encode("  ab  b "), (Ids{3, 6, 3, 5, 1}));
  EXPECT_EQ(Load(parts)->Decode(Ids{3, 6, 4, 1}, true), "ab a");

  for (int byte = 0; byte < 256; ++byte) parts.Add(BytePieceText(static_cast<uint8_t>(byte)), 6);
  EXPECT_EQ(*Load(parts)->Encode("é"), (Ids{3, 7 + 0xC3, 7 + 0xA9, 1}));
}

TEST(GgufTokenizer, WhatIsWrongIsRefusedByItsKey) {
  struct Case {
    Parts parts;
    std::function<void(Parts&)> change;
    std::string message;
  };
  const std::string tokens = "tokenizer.ggml.tokens";
  const std::vector<Case> cases = {
      {Gpt2(), [](Parts& p) { p.pre = "klingon"; }, "unsupported: tokenizer.ggml.pre \"klingon\""},
      {Gpt2(), [](Parts& p) { p.model = "rwkv"; }, "tokenizer.ggml.model: unsupported: \"rwkv\""},
      {Gpt2(), [](Parts& p) { p.merges = {"a c"}; }, "tokenizer.ggml.merges[0]: \"a\" + \"c\""},
      {Gpt2(), [](Parts& p) { p.merges = {"ab"}; }, "tokenizer.ggml.merges[0]"},
      // A part of nothing would make a token of itself, without end.
      {Gpt2(), [](Parts& p) { p.merges = {"a "}; }, "tokenizer.ggml.merges[0]: \"a\" + \"\""},
      {Gpt2(),
       [](Parts& p) {
         p.merges = {"a b", " a"};
       },
       "tokenizer.ggml.merges[1]"},
      {Gpt2(), [](Parts& p) { p.merges = {""}; }, "tokenizer.ggml.merges[0]"},
      {Gpt2(), [](Parts& p) { p.merges = {"a b a"}; }, "merges[0]: \"a\" + \"b a\""},
      {Gpt2(), [](Parts& p) { p.merges.clear(); }, "tokenizer.ggml.merges: missing"},
      {Gpt2(), [](Parts& p) { p.tokens[7] = "x7"; },
       tokens + ": unsupported: the vocabulary lacks"},
      // llama.cpp would take the last, but ends its process there.
      {Gpt2(), [](Parts& p) { p.tokens[7] = "ab"; }, tokens + ": tokens 7 and 256 are both"},
      {Gpt2(),
       [](Parts& p) {
         p.merges.clear();
         p.more = [](GgufWriter& writer) {
           writer.List("tokenizer.ggml.merges", kGgufInt32, std::vector<int32_t>{1});
         };
       },
       "tokenizer.ggml.merges is a list of 1 whole numbers; it must be a list of strings"},
      {Gpt2(), [](Parts& p) { p.types.pop_back(); }, "tokenizer.ggml.token_type has 257 entries"},
      {Gpt2(), [](Parts& p) { p.tokens.clear(); }, tokens + " has 0 tokens"},
      {Gpt2(),
       [](Parts& p) {
         p.more = [](GgufWriter& writer) { writer.Uint("tokenizer.ggml.eot_token_id", 258); };
       },
       "tokenizer.ggml.eot_token_id is 258"},
      {Gpt2(),
       [](Parts& p) {
         p.more = [](GgufWriter& writer) { writer.Bool("tokenizer.ggml.add_bos_token", true); };
       },
       "tokenizer.ggml.bos_token_id: missing"},
      {Llama(), [](Parts& p) { p.scores.pop_back(); }, "tokenizer.ggml.scores: 265 entries"},
      {Llama(), [](Parts& p) { p.scores.clear(); }, "tokenizer.ggml.scores: 0 entries"},
      {Llama(), [](Parts& p) { p.tokens[3] = "gone"; }, tokens + ": unsupported: the vocabulary"},
      {T5(), [](Parts& p) { p.scores.pop_back(); }, "tokenizer.ggml.scores: 6 entries"},
      {T5(), [](Parts& p) { p.scores[4] = NAN; }, tokens + ": the score of token 4"},
      {T5(),
       [](Parts& p) {
         p.more = [](GgufWriter& writer) {
           writer.List("tokenizer.ggml.precompiled_charsmap", kGgufUint8, std::vector<uint8_t>(5));
         };
       },
       "tokenizer.ggml.precompiled_charsmap: "},
      {T5(),
       [](Parts& p) {
         p.more = [](GgufWriter& writer) { writer.Uint("tokenizer.ggml.unknown_token_id", 7); };
       },
       "tokenizer.ggml.unknown_token_id is 7"},
  };
  for (Case test : cases) {
    test.change(test.parts);
    const auto tokenizer = Load(test.parts);
    ASSERT_FALSE(tokenizer.ok()) << test.message;
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(tokenizer.status().message());
    EXPECT_TRUE(message.starts_with("test.gguf: ")) << message;
    EXPECT_NE(message.find(test.message), std::string::npos) << message;
  }
}

TEST(GgufTokenizer, EveryPreTokenizerCompiles) {
  for (const char* name : {"default", "gpt-2", "falcon", "smollm", "llama-bpe", "qwen2", "qwen35",
                           "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3"}) {
    const auto pre = FindGgufPreTokenizer(name);
    ASSERT_TRUE(pre.ok()) << pre.status();
    const auto splitter = PreTokenizer::ByteLevelSplits(pre->patterns);
    ASSERT_TRUE(splitter.ok()) << name << splitter.status();
    const auto words = splitter->Split("Ab 12é", true);
    ASSERT_TRUE(words.ok()) << name << words.status();
    std::string joined;
    for (const std::string_view word : words->words) joined += word;
    EXPECT_EQ(joined, "Ab 12é") << name;
  }
}

TEST(GgufTokenizer, FilesAndChatTemplates) {
  Parts parts = Llama();
  parts.more = [](GgufWriter& writer) {
    writer.Text("tokenizer.chat_template",
                "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}");
  };
  const auto path = std::filesystem::path(testing::TempDir()) / "gguf_tokenizer_test.gguf";
  std::ofstream(path, std::ios::binary) << parts.File();
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokens = GgufTokens::Read(*file);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(*Tokenizer::FromGguf(*file, *tokens)->Encode("ab"), (Ids{1, 259, 262}));
  const auto chat = ChatTemplate::FromGguf(*file, *tokens);
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatInput input;
  input.messages = {{{"role", "user"}, {"content", "x"}}};
  EXPECT_EQ(*chat->Render(input), "<s>x</s>");
  std::ofstream(path, std::ios::binary) << Llama().File();
  const auto none = GgufFile::Open(path);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(ChatTemplate::FromGguf(*none, *tokens).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace trireme
