#include "cluster/bench_serve_random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr double kLengthMax = 1 << 24;
constexpr uint64_t kArrivalStream = ~uint64_t{0};  // requests use the low numbers

uint32_t ToLength(double value) {
  return static_cast<uint32_t>(std::clamp(std::round(value), 1.0, kLengthMax));
}

absl::StatusOr<double> ParseNumber(const std::string& text, const std::string& whole, double low) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !(value >= low && value <= kLengthMax)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", whole, "\": \"", text,
                                                   "\" is not a number from ", low, " to ",
                                                   static_cast<uint64_t>(kLengthMax)));
  }
  return value;
}

}  // namespace

Random::Random(uint64_t seed, uint64_t stream)
    : state_(Random(seed).Next() ^ Random(~stream).Next()) {}

uint64_t Random::Next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

// The bias of a bound below 2^24 is below 2^-40.
uint64_t Random::Below(uint64_t bound) { return Next() % bound; }

// Box-Muller; the second number is thrown away.
double Random::Normal() {
  const double radius = std::sqrt(2 * Exponential());
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

double Random::Exponential() { return -std::log1p(-Uniform()); }

// Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
double Random::Gamma(double shape) {
  if (shape < 1) {
    const double boosted = Gamma(shape + 1);
    return boosted * std::pow(1 - Uniform(), 1 / shape);
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = Normal();
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    if (std::log(1 - Uniform()) < x * x / 2 + d * (1 - v + std::log(v))) return d * v;
  }
}

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(const std::string& text) {
  struct Form {
    std::string_view name;
    Kind kind;
    size_t parameters;
    std::array<double, 2> low;  // smallest value of each parameter
  };
  constexpr std::array<Form, 4> kForms = {{{"uniform", Kind::kUniform, 2, {1, 1}},
                                           {"normal", Kind::kNormal, 2, {1, 0}},
                                           {"lognormal", Kind::kLognormal, 2, {1, 0}},
                                           {"exponential", Kind::kExponential, 1, {1, 0}}}};
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  std::vector<double> values;
  if (parts.size() == 1 || (parts.size() == 2 && parts[0] == "choice")) {
    const std::vector<std::string> choices = absl::StrSplit(parts.back(), ',');
    if (parts.size() == 1 && choices.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": write choice:", text));
    }
    for (const std::string& choice : choices) {
      ASSIGN_OR_RETURN(const double value, ParseNumber(choice, text, 1));
      values.push_back(value);
    }
    return LengthDistribution(Kind::kChoice, std::move(values));
  }
  const auto* form = std::find_if(kForms.begin(), kForms.end(),
                                  [&](const Form& form) { return form.name == parts[0]; });
  if (form == kForms.end() || parts.size() != form->parameters + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a length: use N, uniform:A:B, normal:MEAN:STD, ",
                     "lognormal:MEDIAN:SIGMA, exponential:MEAN or choice:A,B,C"));
  }
  for (size_t i = 0; i < form->parameters; ++i) {
    ASSIGN_OR_RETURN(const double value, ParseNumber(parts[i + 1], text, form->low[i]));
    values.push_back(value);
  }
  if (form->kind == Kind::kUniform && values[0] > values[1]) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": A must not be above B"));
  }
  return LengthDistribution(form->kind, std::move(values));
}

uint32_t LengthDistribution::Draw(Random& random) const {
  const std::vector<double>& p = parameters_;
  switch (kind_) {
    case Kind::kUniform: {
      const uint32_t low = ToLength(p[0]);
      return low + static_cast<uint32_t>(random.Below(ToLength(p[1]) - low + 1));
    }
    case Kind::kNormal:
      return ToLength(p[0] + p[1] * random.Normal());
    case Kind::kLognormal:
      return ToLength(p[0] * std::exp(p[1] * random.Normal()));
    case Kind::kExponential:
      return ToLength(p[0] * random.Exponential());
    case Kind::kChoice:
      break;
  }
  return ToLength(p.size() == 1 ? p[0] : p[random.Below(p.size())]);
}

uint32_t LengthDistribution::Min() const {
  switch (kind_) {
    case Kind::kUniform:
      return ToLength(parameters_[0]);
    case Kind::kChoice:
      return ToLength(*std::min_element(parameters_.begin(), parameters_.end()));
    default:
      return 1;
  }
}

ArrivalProcess::ArrivalProcess(double rate, double burstiness, uint64_t seed)
    : rate_(rate), burstiness_(burstiness), random_(seed, kArrivalStream) {}

double ArrivalProcess::Next() {
  if (std::isinf(rate_)) return 0;
  // The mean of Gamma(shape) is its shape.
  const double gap =
      burstiness_ == 1 ? random_.Exponential() : random_.Gamma(burstiness_) / burstiness_;
  return now_s_ += gap / rate_;
}

}  // namespace trireme
