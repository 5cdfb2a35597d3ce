#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/text/jinja/ast.h"

namespace trireme::jinja {

// The tree of a template, by the grammar of Jinja2 3.1 with loop controls and {% generation %}.
// Nesting is bounded. Errors are InvalidArgument, name the line, and say "unsupported" for the
// statements that load other templates.
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace trireme::jinja
