#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_avx512.h"

namespace trireme::cpu {

const KernelTable& Avx512Kernels() {
  static constexpr KernelTable kTable = MakeKernelTable<SimdAvx512>();
  return kTable;
}

}  // namespace trireme::cpu
