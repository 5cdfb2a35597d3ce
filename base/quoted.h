#pragma once

#include <string>
#include <string_view>

namespace trireme {

// A name out of a file, quoted for an error message: escaped to one line and cut to a readable
// length.
std::string Quoted(std::string_view name);

}  // namespace trireme
