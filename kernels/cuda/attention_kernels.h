#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"

namespace trireme::cuda {

// The kernels behind Attention(), for shapes they are made for. A sequence belongs to the first two
// if it has at most step.split_query_max tokens, else to the third.

// Parts of the context side by side; writes `out` of rows that see one part, else the parts.
void LaunchAttentionDecode(const AttentionArgs& args);
// Merges the parts, and writes zeros for all padding tokens.
void LaunchAttentionMerge(const AttentionArgs& args);
void LaunchAttentionPrefill(const AttentionArgs& args);
// All tokens, any type and dimension.
void LaunchAttentionGeneric(const AttentionArgs& args);

// The decode kernel's unmerged rows in the workspace: a row is a head of one of the split_query_max
// tokens of a sequence, with so many parts of the context at most.
constexpr int64_t AttentionRows(const AttentionStep& step, int64_t heads) {
  return int64_t{step.sequences} * step.split_query_max * heads;
}
constexpr int64_t AttentionPartsMax(const AttentionStep& step) {
  return (int64_t{step.context_max} + kAttentionSplit - 1) / kAttentionSplit;
}

}  // namespace trireme::cuda
