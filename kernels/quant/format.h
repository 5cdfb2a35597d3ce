#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/quant/planes.h"
#include "kernels/tensor.h"

namespace trireme::quant {

// A format is a struct of static members:
//
//   kDType        the stored type
//   kOffset       a quant u, an unsigned byte, means u - kOffset
//   kHalves       scales of a unit's row: 1, or 2 for the sixteen columns each of its halves
//   kMins         a row's value is scale * u - min instead (then kOffset is 0)
//   kSmall        quants are below 128
//   kUnitBytes    of 16 rows x 32 columns
//   kHeaderBytes  of 16 rows of a super-block of 256 columns; 0: there is none
//   Pack(stored, block, lane, unit, header)
//                 packs a row's 32 columns, the block-th of its stored super-block (or the only
//                 ones of its block), and with block 0 or at a slice's begin the header's part
//   GetQuads<P>(unit, lane, quads)
//   GetScales<P>(unit, header, lane, scales, mins)
//                 floats of the vector's lanes; mins only with kMins
//
// Every product of a stored float16 scale and a small integer scale is exact in float32.

// d, a float16 for each row: of blocks without a header.
template <class P>
TRIREME_HOST_DEVICE inline typename P::V GetHalves(const std::byte* halves, int lane) {
  return P::LoadF16(reinterpret_cast<const uint16_t*>(halves) + lane);
}
// Small integers, one for each row.
template <class P>
TRIREME_HOST_DEVICE inline typename P::V GetInts(const std::byte* ints, int lane) {
  return P::LoadInt8(reinterpret_cast<const int8_t*>(ints) + lane);
}

}  // namespace trireme::quant
