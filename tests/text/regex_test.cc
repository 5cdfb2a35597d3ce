#include "coordinator/text/regex.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace trireme {
namespace {

using Ranges = std::vector<std::pair<size_t, size_t>>;

Ranges FindAll(const char* pattern, const std::string& text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  const auto matches = regex->FindAll(text);
  EXPECT_TRUE(matches.ok()) << matches.status();
  return *matches;
}

TEST(Regex, WhiteSpaceIsUnicodes) {
  EXPECT_EQ(FindAll("\\s", "\u0085").size(), 1U);
  EXPECT_EQ(FindAll("\\s", "\u3000").size(), 1U);
  EXPECT_EQ(FindAll("\\s", "\u180e").size(), 0U);
  EXPECT_EQ(FindAll("\\s", "\ufeff").size(), 0U);
  EXPECT_EQ(FindAll("[^\\S]", "\u180e \u00a0").size(), 2U);
}

TEST(Regex, CaselessMatchesLongS) { EXPECT_EQ(FindAll("(?i:'s)", "'ſ 'S 's").size(), 3U); }

TEST(Regex, EmptyMatchesDoNotLoop) {
  EXPECT_EQ(FindAll("x*", "axb"), (Ranges{{0, 0}, {1, 2}, {3, 3}}));
  EXPECT_EQ(FindAll("", "é"), (Ranges{{0, 0}, {2, 2}}));
}

TEST(Regex, LiteralTakesNoMeaning) {
  const auto regex = Regex::Literal("a.b*[é]\\");
  ASSERT_TRUE(regex.ok()) << regex.status();
  EXPECT_EQ(regex->FindAll("axb a.b*[é]\\")->size(), 1U);
}

TEST(Regex, WhatCannotBeTranslatedIsRefused) {
  for (const char* pattern : {"\\bx", "\\h", "[a[b]]", "[a&&b]", "\\p{N}{1,3}+", "(?m:.)", "\\X",
                              "(?<name>x)", "\\xE9", "x\\", "[", "(*ACCEPT)", "\\p{^Foo9}"}) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Regex, EndlessBacktrackingIsAnError) {
  const auto regex = Regex::Compile("(?:a|aa|aaa)+[bc]");
  ASSERT_TRUE(regex.ok());
  const auto matches = regex->FindAll(std::string(200, 'a'));
  ASSERT_FALSE(matches.ok());
  EXPECT_EQ(matches.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace trireme
