#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_avx2.h"

namespace trireme::cpu {

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable kTable = MakeKernelTable<SimdAvx2>();
  return kTable;
}

}  // namespace trireme::cpu
