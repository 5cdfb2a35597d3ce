#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bf16_linear.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/quant_linear.h"
#include "kernels/cpu/top_k_softmax.h"

namespace trireme::cpu {

// One instruction set's kernels, each a single thread's work. All tables compute the same bits.
struct KernelTable {
  const char* name;
  void (*linear)(const LinearArgs&, int64_t row_begin, int64_t row_end);
  void (*pack_activations)(const float* row, int64_t t, int64_t tokens, const Weight&, int groups,
                           float* packed);
  void (*widen_row)(const Weight&, int64_t row, float* out);
  void (*round_row)(const float* x, int64_t n, uint32_t* pairs);
  void (*bf16_linear)(const Bf16LinearArgs&, int64_t panel_begin, int64_t panel_end, PanelSums&);
  void (*widen_bf16_row)(const std::byte* weight, const quant::PackedLayout&, int64_t row,
                         float* out);
  void (*quantize_row)(const float* x, int64_t n, DType weight_dtype, ActivationBlock* to,
                       int64_t stride);
  void (*quant_linear)(DType, const QuantLinearArgs&, int64_t panel_begin, int64_t panel_end,
                       PanelSums& sums);
  void (*widen_quant_row)(DType, const std::byte* weight, const quant::PackedLayout&, int64_t row,
                          float* out);
  void (*rms_norm_row)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*rope_head)(float* x, const float* cos, const float* sin, int64_t half);
  void (*attention)(const AttentionArgs&);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*top_k_softmax)(const float* scores, int64_t n, int64_t k, int32_t* ids, float* weights);
  void (*add)(float* x, const float* y, int64_t n);
};

template <class S>
constexpr KernelTable MakeKernelTable() {
  return {.name = S::kName,
          .linear = &Linear<S>,
          .pack_activations = &PackActivations<S>,
          .widen_row = &WidenRow<S>,
          .round_row = &RoundRow<S>,
          .bf16_linear = &Bf16Linear<S>,
          .widen_bf16_row = &WidenBf16Row<S>,
          .quantize_row = &QuantizeRow<S>,
          .quant_linear = &QuantLinear<S>,
          .widen_quant_row = &WidenQuantRow<S>,
          .rms_norm_row = &RmsNormRow<S>,
          .rope_head = &RopeHead<S>,
          .attention = &Attention<S>,
          .silu_mul = &SiluMul<S>,
          .gelu_tanh_mul = &GeluTanhMul<S>,
          .top_k_softmax = &TopKSoftmax<S>,
          .add = &Add<S>};
}

const KernelTable& ScalarKernels();
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& Avx512VnniKernels();
const KernelTable& Avx512Bf16Kernels();

}  // namespace trireme::cpu
