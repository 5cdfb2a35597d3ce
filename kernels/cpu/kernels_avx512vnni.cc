#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd_avx512vnni.h"

namespace trireme::cpu {

const KernelTable& Avx512VnniKernels() {
  static constexpr KernelTable kTable = MakeKernelTable<SimdAvx512Vnni>();
  return kTable;
}

}  // namespace trireme::cpu
