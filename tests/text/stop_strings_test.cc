#include "coordinator/text/stop_strings.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace trireme {
namespace {

// Where the text is cut, by trying every end and every stop string.
std::optional<std::string> NaiveCut(const std::string& text,
                                    const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return std::nullopt;
}

std::string RandomText(std::mt19937& random, size_t length) {
  std::string text(length, ' ');
  for (char& c : text) c = static_cast<char>('a' + random() % 3);
  return text;
}

TEST(StopStrings, AgreesWithNaiveSearchHoweverTheTextIsCut) {
  std::mt19937 random(7);
  int stopped = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) stops.push_back(RandomText(random, 1 + random() % 6));
    const std::string text = RandomText(random, random() % 40);
    auto matcher = StopStrings::Create(stops);
    ASSERT_TRUE(matcher.ok());
    std::string out;
    bool stop = false;
    for (size_t pos = 0; pos < text.size();) {
      const size_t bytes = random() % 5;
      const auto result = matcher->Append(std::string_view(text).substr(pos, bytes));
      pos += bytes;
      out += result.text;
      stop = stop || result.stopped;
    }
    out += matcher->Flush();
    const auto cut = NaiveCut(text, stops);
    ASSERT_EQ(stop, cut.has_value());
    ASSERT_EQ(out, cut.value_or(text));
    stopped += stop ? 1 : 0;
  }
  EXPECT_GT(stopped, 1000);
}

TEST(StopStrings, HoldsBackOnlyWhatMayBeginAStop) {
  auto matcher = StopStrings::Create({"</end>", "\n\n"});
  ASSERT_TRUE(matcher.ok());
  EXPECT_EQ(matcher->Append("text <").text, "text ");
  EXPECT_EQ(matcher->Append("").text, "");
  EXPECT_EQ(matcher->Append("/e").text, "");
  EXPECT_EQ(matcher->Append("x\n").text, "</ex");
  const auto result = matcher->Append("\nmore");
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.stop_index, 1U);
  EXPECT_EQ(matcher->Append("more").text, "");
}

TEST(StopStrings, RefusesBadLists) {
  EXPECT_FALSE(StopStrings::Create({""}).ok());
  EXPECT_FALSE(StopStrings::Create({"\xff"}).ok());
  EXPECT_FALSE(StopStrings::Create(std::vector<std::string>(65, "x")).ok());
}

}  // namespace
}  // namespace trireme
