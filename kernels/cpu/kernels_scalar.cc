#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_scalar.h"

namespace trireme::cpu {

const KernelTable& ScalarKernels() {
  static constexpr KernelTable kTable = MakeKernelTable<SimdScalar>();
  return kTable;
}

}  // namespace trireme::cpu
