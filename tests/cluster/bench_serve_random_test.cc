// Constants marked "numpy" are from numpy 2.4.6: percentiles of numpy.quantile(), distributions as
// quantiles of 20 million draws of numpy.random.default_rng(1).

#include "cluster/bench_serve_random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "cluster/bench_serve_measures.h"

namespace trireme {
namespace {

constexpr int kDraws = 200'000;

// The values at 10, 50, 90 and 99 %.
std::vector<double> Quantiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {Percentile(values, 10), Percentile(values, 50), Percentile(values, 90),
          Percentile(values, 99)};
}

std::vector<double> DrawMany(const std::string& text) {
  const auto distribution = LengthDistribution::Parse(text);
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  std::vector<double> values;
  Random random(7);
  for (int i = 0; i < kDraws; ++i) values.push_back(distribution->Draw(random));
  return values;
}

// Within 2 %, several times the error of so many draws, or within `slack`.
void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double slack) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], std::max(slack, 0.02 * want[i])) << i;
  }
}

TEST(RandomTest, IsSplitMix64) {
  // The published values for seed 1234567 (rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64).
  Random random(1234567);
  for (const uint64_t want : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                              4593380528125082431u, 16408922859458223821u}) {
    EXPECT_EQ(random.Next(), want);
  }
}

TEST(RandomTest, StreamsOfASeedDiffer) {
  std::map<uint64_t, int> first;
  for (uint64_t stream = 0; stream < 1000; ++stream) ++first[Random(3, stream).Next()];
  EXPECT_EQ(first.size(), 1000u);
  EXPECT_EQ(Random(3, 17).Next(), Random(3, 17).Next());
  EXPECT_NE(Random(3, 17).Next(), Random(4, 17).Next());
  EXPECT_NE(Random(3, 17).Next(), Random(17, 3).Next());
}

TEST(LengthDistributionTest, AgreesWithNumpy) {
  ExpectNear(Quantiles(DrawMany("lognormal:200:0.5")), {105, 200, 380, 640}, 1);
  ExpectNear(Quantiles(DrawMany("normal:300:40")), {249, 300, 351, 393}, 1);
  ExpectNear(Quantiles(DrawMany("exponential:250")), {26, 173, 575, 1151}, 1);
}

TEST(LengthDistributionTest, UniformAndChoiceGiveEveryValueEquallyOften) {
  std::map<double, int> counts;
  for (const double value : DrawMany("uniform:5:8")) ++counts[value];
  for (const double value : DrawMany("choice:16,32,1024,7")) ++counts[value];
  ASSERT_EQ(counts.size(), 7u);  // 7 is in both
  counts[7] /= 2;
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, kDraws / 4.0, kDraws / 100.0);
}

TEST(LengthDistributionTest, FixedLengthsAreFixedAndBoundsHold) {
  for (const double value : DrawMany("77")) ASSERT_EQ(value, 77);
  for (const double value : DrawMany("normal:2:50")) ASSERT_GE(value, 1);
  EXPECT_EQ(LengthDistribution::Parse("uniform:5:8")->Min(), 5u);
  EXPECT_EQ(LengthDistribution::Parse("choice:16,3,9")->Min(), 3u);
  EXPECT_EQ(LengthDistribution::Parse("12")->Min(), 12u);
  EXPECT_EQ(LengthDistribution::Parse("exponential:100")->Min(), 1u);
}

TEST(LengthDistributionTest, RefusesWhatIsNoDistribution) {
  for (const char* text :
       {"", "0", "-3", "x", "nan", "inf", "1,2", "uniform:5", "uniform:8:5", "uniform:1:2:3",
        "normal:10:-1", "choice:", "choice:1,,2", "zipf:2", "exponential:0", "17000000"}) {
    EXPECT_FALSE(LengthDistribution::Parse(text).ok()) << text;
  }
}

std::vector<double> GapsOf(double rate, double burstiness) {
  ArrivalProcess arrivals(rate, burstiness, 11);
  std::vector<double> gaps;
  double before = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double next = arrivals.Next();
    gaps.push_back(next - before);
    before = next;
  }
  EXPECT_NEAR(before, kDraws / rate, 0.02 * kDraws / rate);  // the rate is kept
  return gaps;
}

TEST(ArrivalProcessTest, PoissonGapsAgreeWithNumpy) {
  const std::vector<double> gaps = GapsOf(5, 1);
  ExpectNear(Quantiles(gaps), {0.02102826, 0.13858454, 0.46033712, 0.92037893}, 1e-3);
  // As many arrivals in windows of a second as a Poisson process has: variance equals mean.
  std::vector<double> counts(static_cast<size_t>(kDraws / 5 * 0.9), 0);
  double now = 0;
  for (const double gap : gaps) {
    now += gap;
    if (now < static_cast<double>(counts.size())) ++counts[static_cast<size_t>(now)];
  }
  double mean = 0, variance = 0;
  for (const double count : counts) mean += count / static_cast<double>(counts.size());
  for (const double count : counts) {
    variance += (count - mean) * (count - mean) / static_cast<double>(counts.size());
  }
  EXPECT_NEAR(mean, 5, 0.1);
  EXPECT_NEAR(variance, 5, 0.2);
}

TEST(ArrivalProcessTest, BurstinessShapesTheGapsAsNumpyDoes) {
  ExpectNear(Quantiles(GapsOf(1, 0.5)), {0.01581933, 0.45505873, 2.70593871, 6.628924}, 2e-3);
  ExpectNear(Quantiles(GapsOf(1, 4)), {0.43627063, 0.91787742, 1.67022087, 2.5119372}, 2e-3);
}

TEST(ArrivalProcessTest, InfiniteRateIsAllAtOnce) {
  ArrivalProcess arrivals(std::numeric_limits<double>::infinity(), 1, 0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(arrivals.Next(), 0);
}

TEST(ArrivalProcessTest, SameSeedSameTimes) {
  ArrivalProcess one(3, 1, 5), same(3, 1, 5), other(3, 1, 6);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const double at = one.Next();
    EXPECT_EQ(at, same.Next());
    differs |= at != other.Next();
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace trireme
