#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// Routing of a mixture of experts, without the host: all arrays are in device memory, and nothing
// depends on more than the arrays and these sizes.

// The k largest of each row's n scores, largest first, equal ones by index: their indices and the
// softmax over them alone. A NaN counts as lowest. 1 <= k <= n.
struct TopKSoftmaxArgs {
  const float* scores = nullptr;  // [tokens, n]
  int64_t tokens = 0;
  int64_t n = 0;
  int64_t k = 0;
  int32_t* ids = nullptr;    // [tokens, k]
  float* weights = nullptr;  // [tokens, k]
  cudaStream_t stream = nullptr;
};
void TopKSoftmax(const TopKSoftmaxArgs& args);

// Sorts the choices by expert, those of one expert by token. The rows of expert e are
// first_row[e] .. first_row[e + 1] - 1; a row's token is token_of_row (-1 behind the last one), so
// that GatherRows (rows.h) makes the experts' inputs.
struct RouteArgs {
  const int32_t* ids = nullptr;        // [tokens, k], below `experts`
  const int32_t* positions = nullptr;  // [tokens], or null; tokens at -1 are padding: no rows
  int64_t tokens = 0;
  int64_t k = 0;
  int64_t experts = 0;
  int32_t* first_row = nullptr;     // [experts + 1]
  int32_t* token_of_row = nullptr;  // [tokens * k]
  int32_t* row_of = nullptr;        // [tokens, k]: a choice's row; -1: none
  cudaStream_t stream = nullptr;
};
void Route(const RouteArgs& args);

// out[t, :] = sum over j, in order, of weights[t, j] * y[row_of[t, j], :]; zeros for padding.
struct CombineArgs {
  const float* y = nullptr;         // [tokens * k, cols]
  const int32_t* row_of = nullptr;  // [tokens, k]
  const float* weights = nullptr;   // [tokens, k]
  float* out = nullptr;             // [tokens, cols]
  int64_t tokens = 0;
  int64_t k = 0;
  int64_t cols = 0;
  cudaStream_t stream = nullptr;
};
void Combine(const CombineArgs& args);

}  // namespace trireme::cuda
