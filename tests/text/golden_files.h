#pragma once

#include <filesystem>
#include <string>

#include "coordinator/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace trireme {

// Reads the files under tests/golden. Any failure ends the test program: the files are ours.

std::filesystem::path GoldenDir();

// The content of a gzip file.
std::string ReadGzip(const std::filesystem::path& path);

// tests/golden/tokenizer/NAME.shell.json with the merge list and vocabulary put in, as
// tools/make_tokenizer_golden.py's `expand` does.
std::string ExpandShell(const std::string& name);

// The tokenizer of NAME.shell.json, loaded once and kept.
const Tokenizer& GoldenTokenizer(const std::string& name);

}  // namespace trireme
