#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_avx512bf16.h"

namespace trireme::cpu {

const KernelTable& Avx512Bf16Kernels() {
  static constexpr KernelTable kTable = MakeKernelTable<SimdAvx512Bf16>();
  return kTable;
}

}  // namespace trireme::cpu
