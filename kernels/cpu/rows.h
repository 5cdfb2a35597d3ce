#pragma once

#include <cstdint>

namespace trireme::cpu {

// Stored element types, widened to float lanes as they are loaded. Load(p, n) reads n elements; the
// lanes past them are zero.
template <class S>
struct F32Rows {
  using Element = float;
  static typename S::V Load(const float* p) { return S::Load(p); }
  static typename S::V Load(const float* p, int n) { return S::Load(p, n); }
};

template <class S, class E, class Widen>
struct NarrowRows {
  using Element = E;
  static typename S::V Load(const E* p) { return Widen::template Load<S>(p); }
  static typename S::V Load(const E* p, int n) {
    if (n == S::kLanes) return Load(p);
    E padded[S::kLanes] = {};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return Load(padded);
  }
};

struct WidenF16 {
  template <class S>
  static typename S::V Load(const uint16_t* p) {
    return S::LoadF16(p);
  }
};
struct WidenBf16 {
  template <class S>
  static typename S::V Load(const uint16_t* p) {
    return S::LoadBf16(p);
  }
};
struct WidenInt8 {
  template <class S>
  static typename S::V Load(const int8_t* p) {
    return S::LoadInt8(p);
  }
};

template <class S>
using F16Rows = NarrowRows<S, uint16_t, WidenF16>;
template <class S>
using Bf16Rows = NarrowRows<S, uint16_t, WidenBf16>;
template <class S>
using Int8Rows = NarrowRows<S, int8_t, WidenInt8>;

}  // namespace trireme::cpu
