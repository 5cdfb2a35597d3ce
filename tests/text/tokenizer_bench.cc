// Prints how fast tokenizers load and encode: tokenizer_bench [TEXT-FILE [MODEL.gguf …]]

#include <chrono>
#include <cstdio>
#include <functional>
#include <string>

#include "base/file.h"
#include "coordinator/text/gguf_tokens.h"
#include "parallel/gguf_file.h"
#include "tests/text/golden_files.h"

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void Report(const char* name, const std::string& text,
            const std::function<absl::StatusOr<trireme::Tokenizer>()>& load) {
  const Clock::time_point start = Clock::now();
  const auto tokenizer = load();
  const double load_s = SecondsSince(start);
  if (!tokenizer.ok()) {
    std::printf("%s\n", std::string(tokenizer.status().message()).c_str());
    return;
  }
  double encode_s[2];
  size_t count = 0;
  for (double& seconds : encode_s) {
    const Clock::time_point begin = Clock::now();
    count = tokenizer->Encode(text)->size();
    seconds = SecondsSince(begin);
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf("%s: load %.1f ms, encode %.1f MB/s, again %.1f MB/s, %zu tokens\n", name,
              load_s * 1e3, megabytes / encode_s[0], megabytes / encode_s[1], count);
}

}  // namespace

int main(int argc, char** argv) {
  std::string text;
  if (argc > 1) text = trireme::ReadFile(argv[1], 1 << 30).value_or("");
  while (text.size() < 4'000'000) {
    text +=
        "In the beginning there were 3 ranks, and none of them knew the others' names; "
        "so they wrote down what they had heard, compared it, and began again.\n";
  }
  if (argc <= 2) {
    for (const char* name : {"qwen2", "llama3", "gpt2", "deepseek"}) {
      const std::string json = trireme::ExpandShell(name);
      Report(name, text, [&] { return trireme::Tokenizer::Parse(json, name); });
    }
  }
  for (int i = 2; i < argc; ++i) {
    const Clock::time_point start = Clock::now();
    const auto file = trireme::GgufFile::Open(argv[i]);
    std::printf("%s: header %.1f ms\n", argv[i], SecondsSince(start) * 1e3);
    if (file.ok())
      Report(argv[i], text, [&] {
        return trireme::Tokenizer::FromGguf(*file, *trireme::GgufTokens::Read(*file));
      });
  }
  return 0;
}
