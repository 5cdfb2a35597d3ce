#pragma once

#include "base/check.h"
#include "kernels/quant/int4_zero.h"
#include "kernels/quant/int8.h"
#include "kernels/quant/iq4_nl.h"
#include "kernels/quant/q2_k.h"
#include "kernels/quant/q3_k.h"
#include "kernels/quant/q4_0.h"
#include "kernels/quant/q4_1.h"
#include "kernels/quant/q4_k.h"
#include "kernels/quant/q5_0.h"
#include "kernels/quant/q5_1.h"
#include "kernels/quant/q5_k.h"
#include "kernels/quant/q6_k.h"
#include "kernels/quant/q8_0.h"

namespace trireme::quant {

// The registry: calls f with (an object of) the format of a quantised type. A new format is a file
// and a row here.
template <class F>
decltype(auto) WithFormat(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kQ4_0:
      return f(Q4_0{});
    case DType::kQ4_1:
      return f(Q4_1{});
    case DType::kQ5_0:
      return f(Q5_0{});
    case DType::kQ5_1:
      return f(Q5_1{});
    case DType::kQ8_0:
      return f(Q8_0{});
    case DType::kQ2K:
      return f(Q2K{});
    case DType::kQ3K:
      return f(Q3K{});
    case DType::kQ4K:
      return f(Q4K{});
    case DType::kQ5K:
      return f(Q5K{});
    case DType::kQ6K:
      return f(Q6K{});
    case DType::kIQ4NL:
      return f(IQ4NL{});
    case DType::kInt8:
      return f(Int8{});
    case DType::kInt4Zero:
      return f(Int4Zero{});
    default:
      break;
  }
  CHECK(false);  // not a quantised type
  __builtin_unreachable();
}

}  // namespace trireme::quant
