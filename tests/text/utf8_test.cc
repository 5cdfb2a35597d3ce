#include "coordinator/text/utf8.h"

#include <string>

#include "coordinator/text/normal_form.h"
#include "gtest/gtest.h"
#include "tests/text/golden_files.h"

namespace trireme {
namespace {

TEST(Utf8, ReplacesIllFormedPartsAsPythonDoes) {
  const auto cases = nlohmann::json::parse(ReadGzip(GoldenDir() / "tokenizer" / "utf8.json.gz"));
  for (const auto& test : cases) {
    std::string bytes;
    for (const auto& byte : test[0]) bytes.push_back(static_cast<char>(byte.get<int>()));
    const auto want = test[1].get<std::string>();
    ASSERT_EQ(ReplaceInvalidUtf8(bytes), want) << test;
    ASSERT_EQ(IsValidUtf8(bytes), bytes == want) << test;
  }
}

TEST(Utf8, EveryScalarValueSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, text);
    const Utf8Step step = NextUtf8(text);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.bytes, text.size());
    ASSERT_EQ(step.kind, Utf8Kind::kValid);
    text.pop_back();
    if (!text.empty()) {
      ASSERT_EQ(NextUtf8(text).kind, Utf8Kind::kIncomplete);
    }
  }
}

TEST(Utf8, CountsAndFindsCodePoints) {
  const std::string text = "aé中😀z";
  EXPECT_EQ(Utf8Length(text), 5U);
  EXPECT_EQ(Utf8Offset(text, 0), 0U);
  EXPECT_EQ(Utf8Offset(text, 3), 6U);
  EXPECT_EQ(Utf8Offset(text, 99), text.size());
}

TEST(Nfc, ComposesAndOrders) {
  EXPECT_EQ(Normalize("plain é", NormalForm::kNfc), "plain é");
  EXPECT_EQ(Normalize("e\u0301", NormalForm::kNfc), "é");
  EXPECT_EQ(Normalize("q\u0307\u0323", NormalForm::kNfc), "q\u0323\u0307");
  EXPECT_EQ(Normalize("\u1112\u1161\u11ab", NormalForm::kNfc), "한");
  EXPECT_EQ(Normalize("\u212b", NormalForm::kNfc), "Å");
}

// 300,000 marks in the worst order: a quadratic sort would not end.
TEST(Nfc, LongRunsOfMarksTakeLinearTime) {
  std::string text = "a";
  for (int i = 0; i < 150'000; ++i) text += "\u0301\u0323";
  EXPECT_EQ(Normalize(text, NormalForm::kNfc).size(),
            text.size());  // "ạ" has 3 bytes, as its two parts have
}

}  // namespace
}  // namespace trireme
