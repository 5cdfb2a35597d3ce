#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// The random numbers of a load: SplitMix64. Starting one costs nothing, so every request has its
// own and does not depend on how many came before; the standard library's distributions would give
// different loads with different libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // Independent of every other stream of the seed.
  Random(uint64_t seed, uint64_t stream);

  uint64_t Next();
  double Uniform();                // [0, 1)
  uint64_t Below(uint64_t bound);  // [0, bound); bound > 0
  double Normal();                 // mean 0, variance 1
  double Exponential();            // mean 1
  double Gamma(double shape);      // mean `shape`; shape > 0

 private:
  uint64_t state_;
};

// A length in tokens, drawn anew for each request.
class LengthDistribution {
 public:
  // "N", "uniform:A:B" (both included), "normal:MEAN:STD", "lognormal:MEDIAN:SIGMA" (SIGMA of the
  // natural logarithm), "exponential:MEAN" or "choice:A,B,C" (equally likely). Lengths are 1 to
  // 16777216.
  static absl::StatusOr<LengthDistribution> Parse(const std::string& text);

  // Rounded to whole tokens, and to the bounds of lengths.
  uint32_t Draw(Random& random) const;
  // The smallest length that Draw can give.
  uint32_t Min() const;

 private:
  enum class Kind { kChoice, kUniform, kNormal, kLognormal, kExponential };
  LengthDistribution(Kind kind, std::vector<double> parameters)
      : kind_(kind), parameters_(std::move(parameters)) {}

  Kind kind_;
  std::vector<double> parameters_;  // as in the text; a fixed length is a choice of one
};

// When requests come: gaps with a mean of 1 / rate. A burstiness of 1 makes them a Poisson process;
// other values are the shape of gamma distributed gaps, below 1 in bursts, above 1 more evenly.
class ArrivalProcess {
 public:
  // An infinite rate lets every request come at 0.
  ArrivalProcess(double rate, double burstiness, uint64_t seed);
  // Seconds from the start to the next arrival; never decreases.
  double Next();

 private:
  double rate_;
  double burstiness_;
  Random random_;
  double now_s_ = 0;
};

}  // namespace trireme
