#include "worker/memory_amount.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// Bytes of a unit in lower case: "", "b", "k", "kb", "kib", "m", ...
std::optional<double> UnitBytes(std::string_view unit) {
  if (unit.empty() || unit == "b") return 1;
  constexpr std::array kUnits = {'k', 'm', 'g', 't'};
  const auto found = std::find(kUnits.begin(), kUnits.end(), unit.front());
  const std::string_view rest = unit.substr(1);
  if (found == kUnits.end() || !(rest.empty() || rest == "b" || rest == "ib")) return std::nullopt;
  return std::pow(1024.0, found - kUnits.begin() + 1);
}

constexpr std::string_view kAuto = "auto";
constexpr double kAutoFraction = 0.25;

}  // namespace

absl::StatusOr<MemoryAmount> ParseMemoryAmount(std::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", std::string(text),
                     "\" is no amount of memory; give bytes (2GiB, 512MiB), a share of what is "
                     "available (0.4, 40%), or auto"));
  };
  if (text.starts_with(kAuto)) {
    const std::string_view share = text.substr(kAuto.size());
    int gangs = 1;
    if (!share.empty() && (share.front() != '/' ||
                           !absl::SimpleAtoi(std::string(share.substr(1)), &gangs) || gangs < 1))
      return bad();
    return MemoryAmount{.fraction = kAutoFraction / gangs, .as_needed = true};
  }
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string number(text.substr(0, digits));
  std::string unit(text.substr(digits));
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  double value = 0;
  if (!absl::SimpleAtod(number, &value)) return bad();
  const bool percent = unit == "%";
  if (percent || (unit.empty() && number.find('.') != std::string::npos)) {
    const double fraction = percent ? value / 100 : value;
    if (!(fraction > 0 && fraction <= 1)) return bad();
    return MemoryAmount{.fraction = fraction};
  }
  const std::optional<double> unit_bytes = UnitBytes(unit);
  if (!unit_bytes || value * *unit_bytes > 0x1p60) return bad();
  return MemoryAmount{.bytes = static_cast<int64_t>(value * *unit_bytes)};
}

}  // namespace trireme
