#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early return on error for functions that return absl::Status or absl::StatusOr<T>.
//
//   RETURN_IF_ERROR(file.Close());
//   ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(dir));
//
// Macros because a function cannot return from its caller.

#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    if (absl::Status status_ = (expr); !status_.ok()) { \
      return status_;                                   \
    }                                                   \
  } while (false)

#define TRIREME_CONCAT_INNER(a, b) a##b
#define TRIREME_CONCAT(a, b) TRIREME_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(lhs, expr) \
  TRIREME_ASSIGN_OR_RETURN(TRIREME_CONCAT(status_or_, __LINE__), lhs, expr)
#define TRIREME_ASSIGN_OR_RETURN(tmp, lhs, expr) \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)
