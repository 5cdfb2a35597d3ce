#pragma once

#include <cstdio>
#include <cstdlib>

// CHECK(condition): a bug of ours, never bad input. Prints where and aborts.
// A macro because it reports the text and place of the condition.
#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
