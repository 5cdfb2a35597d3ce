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

namespace {

nlohmann::json ParseJson(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  CHECK(!json.is_discarded());
  return json;
}

// Ids 0 to 255 are the bytes in order of their symbols, id 256 + n is merge n.
void PutQwen2(nlohmann::json& model) {
  std::vector<char32_t> symbols;
  for (int byte = 0; byte < 256; ++byte)
    symbols.push_back(ByteToSymbol(static_cast<uint8_t>(byte)));
  std::sort(symbols.begin(), symbols.end());
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t i = 0; i < symbols.size(); ++i) vocab[ToUtf8({&symbols[i], 1})] = i;
  nlohmann::json merges = nlohmann::json::array();
  const std::string list = ReadGzip(GoldenDir() / "tokenizer" / "qwen2" / "merges.txt.gz");
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = list.find('\n', begin);
    std::string merge = list.substr(begin, end - begin);
    begin = end + 1;
    std::string merged = merge;
    merged.erase(merged.find(' '), 1);
    vocab[std::move(merged)] = 256 + merges.size();
    merges.push_back(std::move(merge));
  }
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
}

}  // namespace

std::string ExpandShell(const std::string& name) {
  const std::filesystem::path dir = GoldenDir() / "tokenizer";
  const auto shell_text = ReadFile(dir / (name + ".shell.json"), 1 << 20);
  CHECK(shell_text.ok());
  nlohmann::json shell = ParseJson(*shell_text);
  nlohmann::json& model = shell["model"];
  if (!shell.contains("vocabulary")) {
    PutQwen2(model);
    return shell.dump();
  }
  const auto source = shell["vocabulary"].get<std::string>();
  const nlohmann::json data = ParseJson(ReadGzip(dir / (source + ".vocabulary.json.gz")));
  shell.erase("vocabulary");
  const bool fallback = data.contains("fallback_vocab") && model["byte_fallback"] == true;
  model["vocab"] = data[fallback ? "fallback_vocab" : "vocab"];
  if (data.contains("merges")) model["merges"] = data["merges"];
  nlohmann::json& normalizer = shell["normalizer"];
  if (normalizer.is_object() && normalizer.contains("normalizers")) {
    for (nlohmann::json& step : normalizer["normalizers"]) {
      if (step.contains("precompiled_charsmap")) {
        step["precompiled_charsmap"] = data["precompiled_charsmap"];
      }
    }
  }
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
