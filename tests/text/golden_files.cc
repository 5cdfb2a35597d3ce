#include "tests/text/golden_files.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/utf8.h"

namespace trireme {

std::filesystem::path GoldenDir() { return TRIREME_GOLDEN_DIR; }

std::string ReadGzip(const std::filesystem::path& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  CHECK(file != nullptr);
  std::string content;
  std::array<char, 1 << 16> buffer;
  int bytes = 0;
  while ((bytes = gzread(file, buffer.data(), buffer.size())) > 0) {
    content.append(buffer.data(), static_cast<size_t>(bytes));
  }
  CHECK(bytes == 0);
  gzclose(file);
  return content;
}

std::string ExpandShell(const std::string& name) {
  const std::filesystem::path dir = GoldenDir() / "tokenizer";
  const auto shell_text = ReadFile(dir / (name + ".shell.json"), 1 << 20);
  CHECK(shell_text.ok());
  nlohmann::json shell = nlohmann::json::parse(*shell_text, nullptr, false);
  CHECK(!shell.is_discarded());
  std::vector<char32_t> symbols;
  for (int byte = 0; byte < 256; ++byte)
    symbols.push_back(ByteToSymbol(static_cast<uint8_t>(byte)));
  std::sort(symbols.begin(), symbols.end());
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t i = 0; i < symbols.size(); ++i) vocab[ToUtf8({&symbols[i], 1})] = i;
  nlohmann::json merges = nlohmann::json::array();
  const std::string list = ReadGzip(dir / "qwen2" / "merges.txt.gz");
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = list.find('\n', begin);
    std::string merge = list.substr(begin, end - begin);
    begin = end + 1;
    std::string merged = merge;
    merged.erase(merged.find(' '), 1);
    vocab[std::move(merged)] = 256 + merges.size();
    merges.push_back(std::move(merge));
  }
  shell["model"]["vocab"] = std::move(vocab);
  shell["model"]["merges"] = std::move(merges);
  return shell.dump();
}

const Tokenizer& GoldenTokenizer(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  std::unique_ptr<Tokenizer>& slot = loaded[name];
  if (slot == nullptr) {
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(ExpandShell(name), name);
    if (!tokenizer.ok()) std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    CHECK(tokenizer.ok());
    slot = std::make_unique<Tokenizer>(*std::move(tokenizer));
  }
  return *slot;
}

}  // namespace trireme
