#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace trireme::cpu {

// While it lives, this thread's float operations take denormals for zero and give zero for them, as
// the bfloat16 dot product instructions always do.
class DenormalsAreZero {
 public:
#if defined(__x86_64__)
  DenormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kAreZero); }
  ~DenormalsAreZero() { _mm_setcsr(before_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000;
  static constexpr unsigned kAreZero = 0x0040;
  const unsigned before_;
#endif
};

}  // namespace trireme::cpu
