// The tokenizer against ids that Hugging Face `tokenizers` gave (tools/make_tokenizer_golden.py).

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/text/golden_files.h"

namespace trireme {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr int kFailuresMax = 10;  // enough to see the pattern

// The value of `key`, or of `fallback` where the golden file leaves out what is the same.
template <typename T>
T Get(const json& object, const char* key, const T& fallback) {
  return object.contains(key) ? object[key].get<T>() : fallback;
}

// NAME.golden.json.gz goes with NAME.shell.json, or with NAME.tokenizer.json, a whole file.
std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  const std::string suffix = ".golden.json.gz";
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDir() / "tokenizer")) {
    const std::string file = entry.path().filename();
    if (file.ends_with(suffix)) names.push_back(file.substr(0, file.size() - suffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

class TokenizerGolden : public testing::TestWithParam<std::string> {
 protected:
  static Tokenizer Make() {
    const auto whole = GoldenDir() / "tokenizer" / (GetParam() + ".tokenizer.json");
    if (!std::filesystem::exists(whole)) return GoldenTokenizer(GetParam());
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(whole);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }
  static json Golden() {
    return json::parse(ReadGzip(GoldenDir() / "tokenizer" / (GetParam() + ".golden.json.gz")));
  }
};

TEST_P(TokenizerGolden, EncodesAndDecodesAsTheReference) {
  const Tokenizer tokenizer = Make();
  const json golden = Golden();
  EXPECT_GT(golden["encode"].size(), 60U);
  int failures = 0;
  for (const json& test : golden["encode"]) {
    const auto text = test["text"].get<std::string>();
    const auto ids = test["ids"].get<Ids>();
    const auto plain = Get(test, "plain", ids);
    const auto unparsed = Get(test, "unparsed", plain);
    const auto decoded = Get(test, "decoded", text);
    const auto got = tokenizer.Encode(text);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, ids) << json(text);
    EXPECT_EQ(*tokenizer.Encode(text, {.add_special_tokens = false}), plain) << json(text);
    EXPECT_EQ(*tokenizer.Encode(text, {.add_special_tokens = false, .parse_special = false}),
              unparsed)
        << json(text);
    EXPECT_EQ(tokenizer.Decode(ids, false), decoded);
    EXPECT_EQ(tokenizer.Decode(ids, true), Get(test, "skipped", decoded));
    if (HasFailure() && ++failures == kFailuresMax) return;
  }
}

TEST_P(TokenizerGolden, DecodesAnyIdsAsTheReference) {
  const Tokenizer tokenizer = Make();
  const json golden = Golden();
  EXPECT_FALSE(golden["decode"].empty());
  for (const json& test : golden["decode"]) {
    const auto ids = test["ids"].get<Ids>();
    ASSERT_EQ(tokenizer.Decode(ids, false), test["decoded"].get<std::string>()) << test;
    ASSERT_EQ(tokenizer.Decode(ids, true), test["skipped"].get<std::string>()) << test;
  }
}

TEST_P(TokenizerGolden, StreamedPiecesJoinToTheWhole) {
  const Tokenizer tokenizer = Make();
  const json golden = Golden();
  for (const char* part : {"encode", "decode"}) {
    for (const json& test : golden[part]) {
      const auto ids = test["ids"].get<Ids>();
      Detokenizer detokenizer(tokenizer);
      std::string joined;
      for (const int32_t id : ids) joined += detokenizer.Append(id);
      joined += detokenizer.Flush();
      const std::string whole = tokenizer.Decode(ids, true);
      // A whole text loses the spaces that its tokenizer put before it.
      ASSERT_TRUE(joined.ends_with(whole)) << test;
      ASSERT_EQ(joined.find_first_not_of(' ', 0) == std::string::npos,
                whole.find_first_not_of(' ', 0) == std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::ValuesIn(GoldenNames()),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace trireme
