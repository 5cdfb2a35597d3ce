// Tokenizers over a corpus of more than 1 MB in many scripts, against hashes of the ids that
// Hugging Face `tokenizers` and llama.cpp gave (tools/make_corpus_golden.py).

#include <algorithm>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/gguf_tokens.h"
#include "coordinator/text/tokenizer.h"
#include "gtest/gtest.h"
#include "parallel/gguf_file.h"
#include "tests/gguf_writer.h"
#include "tests/real_models.h"
#include "tests/text/golden_files.h"

namespace trireme {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr size_t kPartBytes = 4096;
constexpr int kFailuresMax = 10;

// As the tool's: the number of ids and the 64-bit FNV-1a hash of their little-endian numbers.
json Fingerprint(const Ids& ids) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ ((static_cast<uint32_t>(id) >> shift) & 0xFF)) * 0x100000001B3;
    }
  }
  std::string text(16, '0');
  for (size_t i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[(hash >> (60 - 4 * i)) & 15];
  return json::array({ids.size(), text});
}

const std::string& Corpus() {
  static const auto* corpus =
      new std::string(ReadGzip(GoldenDir() / "tokenizer" / "corpus.txt.gz"));
  return *corpus;
}

std::vector<std::string_view> Parts(std::string_view corpus) {
  std::vector<std::string_view> parts;
  while (!corpus.empty()) {
    const size_t end = corpus.find('\n', kPartBytes);
    parts.push_back(corpus.substr(0, end == std::string_view::npos ? end : end + 1));
    corpus.remove_prefix(parts.back().size());
  }
  return parts;
}

json ReadGolden(const std::string& name) {
  const auto text =
      ReadFile(GoldenDir() / "tokenizer" / (name + ".corpus.json"), 16 << 20).value_or("");
  return json::parse(text, nullptr, false);
}

// NAME.corpus.json with NAME + `ending` beside it.
std::vector<std::string> Names(const std::string& ending) {
  std::vector<std::string> names;
  const std::string suffix = ".corpus.json";
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDir() / "tokenizer")) {
    const std::string file = entry.path().filename();
    if (!file.ends_with(suffix)) continue;
    const std::string name = file.substr(0, file.size() - suffix.size());
    if (std::filesystem::exists(GoldenDir() / "tokenizer" / (name + ending))) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string TestName(const testing::TestParamInfo<std::string>& param_info) {
  std::string name = param_info.param;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

void ExpectCorpus(const Tokenizer& tokenizer, const json& golden) {
  const std::vector<std::string_view> parts = Parts(Corpus());
  ASSERT_EQ(golden["parts"].size(), parts.size());
  int failures = 0;
  for (size_t i = 0; i < parts.size() && failures < kFailuresMax; ++i) {
    const auto ids = tokenizer.Encode(parts[i]);
    ASSERT_TRUE(ids.ok()) << ids.status();
    const json got = Fingerprint(*ids);
    EXPECT_EQ(got, golden["parts"][i]) << "part " << i;
    failures += got == golden["parts"][i] ? 0 : 1;
  }
  EXPECT_EQ(Fingerprint(*tokenizer.Encode(Corpus())), golden["whole"]);
}

// And the short texts: with all that is added and recognised, and without.
void ExpectLlamaCpp(const GgufFile& file, const json& golden) {
  const auto tokenizer = Tokenizer::FromGguf(file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectCorpus(*tokenizer, golden);
  const auto prefix = file.Bool("tokenizer.ggml.add_space_prefix", true).value_or(false) &&
                      file.Has("tokenizer.ggml.scores");
  const json texts = json::parse(ReadGzip(GoldenDir() / "tokenizer" / "texts.json.gz"));
  ASSERT_EQ(texts.size(), golden["texts"].size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (golden["texts"][i].is_null()) continue;
    const auto text = texts[i].get<std::string>();
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(Fingerprint(*ids), golden["texts"][i][0]) << json(text) << json(*ids);
    const auto plain =
        tokenizer->Encode(text, {.add_special_tokens = false, .parse_special = false});
    EXPECT_EQ(Fingerprint(*plain), golden["texts"][i][1]) << json(text) << json(*plain);
    // A space prefix also comes after each token that is recognised within a text.
    if (!prefix) {
      EXPECT_EQ(tokenizer->Decode(*plain, true), text);
    }
  }
  const auto tokens = GgufTokens::Read(file);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(json(tokens->end_ids), golden["end_ids"]);
}

class HuggingFaceCorpus : public testing::TestWithParam<std::string> {};

TEST_P(HuggingFaceCorpus, GivesTheSameIds) {
  ExpectCorpus(GoldenTokenizer(GetParam()), ReadGolden(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(All, HuggingFaceCorpus, testing::ValuesIn(Names(".shell.json")), TestName);

class LlamaCppCorpus : public testing::TestWithParam<std::string> {};

TEST_P(LlamaCppCorpus, GivesTheSameIds) {
  const std::string bytes = ReadGzip(GoldenDir() / "tokenizer" / (GetParam() + ".gguf.gz"));
  const auto file =
      GgufFile::Parse(std::as_bytes(std::span(bytes.data(), bytes.size())), GetParam());
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectLlamaCpp(*file, ReadGolden(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(All, LlamaCppCorpus, testing::ValuesIn(Names(".gguf.gz")), TestName);

// The Unigram vocabulary as a GGUF file, with `more` metadata.
void ExpectUnigramFile(const std::string& name, bool bytes,
                       const std::function<void(GgufWriter&)>& more) {
  const json vocabulary =
      json::parse(ReadGzip(GoldenDir() / "tokenizer" / "unigram.vocabulary.json.gz"));
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const json& piece : vocabulary[bytes ? "fallback_vocab" : "vocab"]) {
    tokens.push_back(piece[0]);
    scores.push_back(piece[1]);
    types.push_back(BytePieceValue(tokens.back()) ? 6 : 1);
  }
  types[0] = types[1] = 3;  // "<pad>", "</s>"
  types[2] = 2;             // "<unk>"
  std::string charsmap;
  ASSERT_TRUE(
      absl::Base64Unescape(vocabulary["precompiled_charsmap"].get<std::string>(), &charsmap));
  GgufWriter writer;
  writer.Text("tokenizer.ggml.model", "t5");
  writer.Texts("tokenizer.ggml.tokens", tokens);
  writer.List("tokenizer.ggml.scores", kGgufFloat32, scores);
  writer.List("tokenizer.ggml.token_type", kGgufInt32, types);
  writer.List("tokenizer.ggml.precompiled_charsmap", kGgufUint8,
              std::vector<uint8_t>(charsmap.begin(), charsmap.end()));
  more(writer);
  const std::string data = writer.File();
  const auto file = GgufFile::Parse(AsBytes(data), name);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tokenizer = Tokenizer::FromGguf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json golden = ReadGolden(name);
  ExpectCorpus(*tokenizer, golden);
  const json texts = json::parse(ReadGzip(GoldenDir() / "tokenizer" / "texts.json.gz"));
  ASSERT_EQ(texts.size(), golden["texts"].size());
  for (size_t i = 0; i < texts.size(); ++i) {
    if (golden["texts"][i].is_null()) continue;
    const auto ids = tokenizer->Encode(texts[i].get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(Fingerprint(*ids), golden["texts"][i]) << texts[i] << json(*ids);
  }
}

TEST(UnigramFile, GivesTheSameIdsWithoutExtraSpaces) {
  ExpectUnigramFile("gguf-t5", /*bytes=*/false, [](GgufWriter& writer) {
    writer.Bool("tokenizer.ggml.remove_extra_whitespaces", true);
  });
}

TEST(UnigramFile, GivesTheSameIdsWithAllSpacesAndBytes) {
  ExpectUnigramFile("gguf-t5-bytes", /*bytes=*/true, [](GgufWriter& writer) {
    writer.Bool("tokenizer.ggml.add_space_prefix", true);
  });
}

// Whole models: real-NAME.corpus.json goes with NAME.gguf.
class RealModelCorpus : public testing::TestWithParam<std::string> {};

TEST_P(RealModelCorpus, GivesTheSameIds) {
  const auto path = RealModelsDir() / (GetParam() + ".gguf");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << NotFetched(path);
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectLlamaCpp(*file, ReadGolden("real-" + GetParam()));
}

INSTANTIATE_TEST_SUITE_P(All, RealModelCorpus,
                         testing::Values("gemma-3-270m", "qwen2.5-coder-1.5b"), TestName);

}  // namespace
}  // namespace trireme
