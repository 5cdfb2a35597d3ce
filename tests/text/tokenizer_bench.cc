// Prints how fast texts are encoded: tokenizer_bench [FILE]

#include <chrono>
#include <cstdio>
#include <string>

#include "base/file.h"
#include "tests/text/golden_files.h"

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  std::string text;
  if (argc > 1) {
    text = trireme::ReadFile(argv[1], 1 << 30).value_or("");
  } else {
    while (text.size() < 4'000'000) {
      text +=
          "In the beginning there were 3 ranks, and none of them knew the others' names; "
          "so they wrote down what they had heard, compared it, and began again.\n";
    }
  }
  for (const char* name : {"qwen2", "llama3", "gpt2", "deepseek"}) {
    const std::string json = trireme::ExpandShell(name);
    const Clock::time_point start = Clock::now();
    const auto tokenizer = trireme::Tokenizer::Parse(json, name);
    const Clock::time_point loaded = Clock::now();
    const auto ids = tokenizer->Encode(text);
    const double encode_s = seconds(Clock::now() - loaded);
    std::printf("%s: load %.2f s, encode %.1f MB/s, %zu tokens\n", name, seconds(loaded - start),
                static_cast<double>(text.size()) / encode_s / 1e6, ids->size());
  }
  return 0;
}
