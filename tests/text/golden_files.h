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

// tests/golden/tokenizer/NAME.shell.json with its vocabulary put in, Qwen2's if it names none, as
// `expand` of tools/make_tokenizer_golden.py and tools/make_corpus_golden.py does.
std::string ExpandShell(const std::string& name);

// The tokenizer of NAME.shell.json, loaded once and kept.
const Tokenizer& GoldenTokenizer(const std::string& name);

}  // namespace trireme
