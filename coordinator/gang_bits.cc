#include "coordinator/gang_bits.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/whereabouts.h"

namespace trireme {
namespace {

bool IsCpu(const v1::Register& rank) {
  const std::string& device = rank.device_model();
  return device.substr(0, device.find(' ')) == "cpu";
}

bool AreAlike(const std::vector<v1::Register>& ranks) {
  return std::all_of(ranks.begin(), ranks.end(), [&](const v1::Register& rank) {
    return rank.device_model() == ranks.front().device_model();
  });
}

std::string Layers(const v1::Register& rank) {
  return absl::StrCat(rank.info().layer_begin(), " to ", rank.info().layer_end());
}

template <typename T>
absl::Status CheckSame(const v1::Register& rank, const T& mine, const std::string& other,
                       const T& other_value, const char* what) {
  if (mine == other_value) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(RankName(rank), " has ", what, " ", mine, ", but ", other, " has ", other_value,
                   ": all gangs must compute the same bits, as requests go on from one to "
                   "another; start this one like the first, or the coordinator anew"));
}

}  // namespace

std::string DescribeBits(const std::vector<v1::Register>& ranks) {
  const v1::Register& first = ranks.front();
  std::string bits =
      absl::StrCat(first.model().version(), "; KV cache in ", first.kv_cache_dtype());
  if (IsCpu(first)) return bits;
  absl::StrAppend(&bits, "; tp ", first.tensor_parallel_size(), " on ");
  if (AreAlike(ranks)) return absl::StrCat(bits, first.device_model());
  std::string last;
  for (const v1::Register& rank : ranks) {
    const std::string part = absl::StrCat(rank.device_model(), ", layers ", Layers(rank));
    // As short as it can be: answers that have begun keep it.
    absl::StrAppend(&bits, last.empty() ? "" : "; ", part == last ? "the same" : part);
    last = part;
  }
  return bits;
}

absl::Status CheckSameBits(const v1::Register& rank, const std::vector<v1::Register>& first) {
  const v1::Register& any = first.front();
  const auto same = [&](const auto& mine, const auto& other, const char* what) {
    return CheckSame(rank, mine, "the first gang", other, what);
  };
  RETURN_IF_ERROR(same(absl::CHexEscape(rank.kv_cache_dtype()),
                       absl::CHexEscape(any.kv_cache_dtype()), "kv_cache_dtype"));
  if (IsCpu(rank) && IsCpu(any)) return absl::OkStatus();
  const std::string device = absl::CHexEscape(rank.device_model());
  if (AreAlike(first)) {
    RETURN_IF_ERROR(same(device, absl::CHexEscape(any.device_model()), "device"));
    return same(rank.tensor_parallel_size(), any.tensor_parallel_size(), "tensor_parallel_size");
  }
  RETURN_IF_ERROR(
      same(rank.tensor_parallel_size(), any.tensor_parallel_size(), "tensor_parallel_size"));
  RETURN_IF_ERROR(same(rank.world_size(), any.world_size(), "world_size"));
  const v1::Register& peer = first.at(rank.info().rank());
  const std::string other = "this rank of the first gang, whose devices differ,";
  RETURN_IF_ERROR(CheckSame(rank, device, other, absl::CHexEscape(peer.device_model()), "device"));
  return CheckSame(rank, Layers(rank), other, Layers(peer), "layers");
}

}  // namespace trireme
