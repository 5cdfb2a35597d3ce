#include "kernels/cuda/attention.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/cuda/attention_kernels.h"

namespace trireme::cuda {
namespace {

// A block of the prefill kernel holds all heads that share a KV head, for one token at least.
constexpr int64_t kFastGroupMax = 64;
// The generic kernel keeps two heads' floats in the 48 KB that any block may have.
constexpr int64_t kHeadDimMax = 4096;

}  // namespace

bool AttentionIsFast(const KvLayer& cache, int64_t heads) {
  const bool dtype = cache.dtype == KvDType::kBF16 || cache.dtype == KvDType::kInt8;
  const bool head_dim = cache.head_dim == 64 || cache.head_dim == 128 || cache.head_dim == 256;
  return dtype && head_dim && heads / cache.num_kv_heads <= kFastGroupMax;
}

absl::Status CheckAttention(const KvLayer& cache, int64_t heads) {
  if (cache.num_kv_heads <= 0 || heads <= 0 || heads % cache.num_kv_heads != 0) {
    return absl::UnimplementedError(
        absl::StrCat("unsupported: ", heads, " query heads over ", cache.num_kv_heads,
                     " KV heads on a GPU; the first must be a multiple of the second"));
  }
  if (cache.head_dim <= 0 || cache.head_dim > kHeadDimMax) {
    return absl::UnimplementedError(absl::StrCat("unsupported: head_dim ", cache.head_dim,
                                                 " on a GPU; the most is ", kHeadDimMax));
  }
  if (cache.block_size <= 0 || cache.block_size % kKeyGroup != 0) {
    return absl::UnimplementedError(absl::StrCat("unsupported: KV blocks of ", cache.block_size,
                                                 " tokens; choose a multiple of ", kKeyGroup));
  }
  return absl::OkStatus();
}

int64_t AttentionWorkspaceBytes(const KvLayer& cache, int64_t heads, const AttentionStep& step) {
  if (!AttentionIsFast(cache, heads)) return 0;
  const int64_t parts = AttentionRows(step, heads) * AttentionPartsMax(step);
  return parts * (cache.head_dim + 2) * static_cast<int64_t>(sizeof(float));
}

void Attention(const AttentionArgs& args) {
  CHECK(CheckAttention(args.cache, args.heads).ok());
  CHECK(args.scale > 0.0f && args.window >= 0 && args.out != args.q);
  const AttentionStep& step = args.step;
  CHECK(step.split_query_max >= 1 && step.split_query_max <= kSplitQueryMax);
  CHECK(step.query_max >= 1 && step.context_max >= 1);
  if (step.tokens == 0) return;
  if (!AttentionIsFast(args.cache, args.heads)) return LaunchAttentionGeneric(args);
  if (step.sequences > 0) LaunchAttentionDecode(args);
  LaunchAttentionMerge(args);
  if (step.sequences > 0 && step.query_max > step.split_query_max) LaunchAttentionPrefill(args);
}

}  // namespace trireme::cuda
