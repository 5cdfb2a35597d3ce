#pragma once

// kernels/cuda/mma.cuh for the emulation: the fragment layouts are those of the PTX ISA, sections
// "Matrix Fragments for mma.m16n8k16" and "ldmatrix".

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {

// c += A B for one lane's elements of c. ToFloat widens 16 bits.
template <class ToFloat>
void EmulateMma16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     const char* operation, const ToFloat& to_float) {
  struct Fragments {
    uint32_t a[4];
    uint32_t b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof(mine.a));
  std::memcpy(mine.b, b, sizeof(mine.b));
  const std::byte* slots = cuda_emulation::WarpExchange(&mine, sizeof(mine), operation);
  const auto of = [&](int lane) {
    return reinterpret_cast<const Fragments*>(slots + static_cast<size_t>(lane) *
                                                          cuda_emulation::kSlotBytes);
  };
  const auto half = [&](uint32_t pair, int k) {
    return to_float(static_cast<uint16_t>(k % 2 == 0 ? pair & 0xffff : pair >> 16));
  };
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int col = lane % 4 * 2 + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const uint32_t x = of(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2];
      const uint32_t y = of(col * 4 + k % 8 / 2)->b[k / 8];
      sum += half(x, k) * half(y, k);
    }
    c[i] += sum;
  }
}

inline void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  EmulateMma16816(c, a, b, "MmaBf16", [](uint16_t bits) { return BFloat16Bits(bits); });
}
inline void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  EmulateMma16816(c, a, b, "MmaF16", [](uint16_t bits) { return HalfBits(bits); });
}

// Lane l gives the address of row l % 8 of matrix l / 8.
inline void EmulateLoadMatrix(uint32_t* d, int matrices, const void* row, bool transposed) {
  const std::byte* slots = cuda_emulation::WarpExchange(&row, sizeof(row), "LoadMatrix");
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int m = 0; m < matrices; ++m) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int r = transposed ? lane % 4 * 2 + i : lane / 4;
      const int c = transposed ? lane / 4 : lane % 4 * 2 + i;
      const std::byte* address;
      std::memcpy(&address, slots + static_cast<size_t>(m * 8 + r) * cuda_emulation::kSlotBytes,
                  sizeof(address));
      std::memcpy(&pair[i], address + 2 * c, 2);
    }
    std::memcpy(&d[m], pair, 4);
  }
  SyncWarp();  // the rows may be written again only when all lanes have read
}
inline void LoadMatrix4(uint32_t (&d)[4], const void* row) { EmulateLoadMatrix(d, 4, row, false); }
inline void LoadMatrix4Transposed(uint32_t (&d)[4], const void* row) {
  EmulateLoadMatrix(d, 4, row, true);
}
inline void LoadMatrix2(uint32_t (&d)[2], const void* row) { EmulateLoadMatrix(d, 2, row, false); }
inline void LoadMatrix2Transposed(uint32_t (&d)[2], const void* row) {
  EmulateLoadMatrix(d, 2, row, true);
}

}  // namespace trireme::cuda
