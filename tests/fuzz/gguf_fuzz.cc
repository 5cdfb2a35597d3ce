// libFuzzer: any bytes as a GGUF file, through all that a coordinator and a worker take out of one.
// It is parsed or refused, what is parsed lies inside the file, and nothing may crash, run without
// end, or take memory that the file does not account for.

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/gguf_tokens.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/layout.h"
#include "parallel/shard.h"
#include "tests/fuzz/tokenizer_use.h"
#include "worker/checkpoint/gguf.h"
#include "worker/checkpoint/slice.h"

namespace {

using trireme::Checkpoint;
using trireme::GgufFile;
using trireme::ModelConfig;
using trireme::ParallelLayout;
using trireme::TensorSlice;

// A model has a name for every matrix of every expert before the first is looked up.
constexpr int64_t kMatricesMax = 1 << 12;

bool LiesIn(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

// What the coordinator reads. `text` is encoded by the file's tokenizer.
void UseText(const GgufFile& file, std::string_view text) {
  const auto tokens = trireme::GgufTokens::Read(file);
  if (!tokens.ok()) return;
  const auto tokenizer = trireme::Tokenizer::FromGguf(file, *tokens);
  if (tokenizer.ok()) {
    trireme::UseTokenizer(*tokenizer, "Hé 12\n");
    trireme::UseTokenizer(*tokenizer, text);
  }
  const auto chat = trireme::ChatTemplate::FromGguf(file, *tokens);
  if (!chat.ok()) return;
  trireme::ChatInput input;
  input.messages = {{{"role", "user"}, {"content", "Hi é"}}};
  const auto prompt = chat->Render(input);
  if (prompt.ok() && !trireme::IsValidUtf8(*prompt)) std::abort();
}

// A slice is read if the file has it in the shape that the metadata say, and then from the file.
void UseSlice(const Checkpoint& checkpoint, const TensorSlice& slice,
              std::span<const std::byte> bytes) {
  const trireme::TensorInfo* info = checkpoint.Find(slice.name);
  const auto stretches = checkpoint.Stretches(slice);
  for (const auto& stretch : stretches) {
    if (!LiesIn(stretch, bytes)) std::abort();
  }
  std::vector<std::byte> rows;
  if (info != nullptr && trireme::Fits(slice, *info)) {
    const int64_t columns = trireme::BlockColumns(slice, info->dtype).size();
    rows.resize(
        static_cast<size_t>(slice.rows.size() * trireme::DTypeRowBytes(info->dtype, columns)));
    if (rows.size() > bytes.size() || (!rows.empty() && stretches.empty())) std::abort();
    if (!checkpoint.ReadBlocks(slice, 0, slice.rows.size(), rows).ok()) std::abort();
  } else if (checkpoint.ReadBlocks(slice, 0, slice.rows.size(), rows).ok()) {
    std::abort();
  }
}

// What the workers of two gangs read.
void UseWeights(const GgufFile& file, const ModelConfig& config, std::span<const std::byte> bytes) {
  const auto checkpoint = trireme::GgufCheckpoint(file);
  if (!checkpoint.ok()) return;
  if (config.num_layers * std::max<int64_t>(config.num_experts, 1) > kMatricesMax) return;
  for (const int tp : {1, 2}) {
    const ParallelLayout layout{.tp = tp, .pp = 1};
    if (!trireme::CheckLayout(config, layout).ok()) continue;
    for (int rank = 0; rank < tp; ++rank) {
      const auto shard = trireme::ComputeShard(config, layout, trireme::CoordOf(layout, rank));
      for (const TensorSlice& slice : trireme::ShardTensors(config, shard)) {
        UseSlice(**checkpoint, slice, bytes);
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = GgufFile::Parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  for (const trireme::GgufTensor& tensor : file->tensors()) {
    if (!LiesIn(tensor.data, bytes)) std::abort();
    if (file->FindTensor(tensor.name) != &tensor) std::abort();
  }
  // The file's own last bytes, which may lie behind its data.
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  UseText(*file, all.substr(size - std::min<size_t>(size, 64)));
  const auto config = trireme::GgufModelConfig(*file);
  if (!config.ok()) return 0;
  if (config->NumParameters() == 0 || config->LayerWindow(config->num_layers - 1) < 0) std::abort();
  UseWeights(*file, *config, bytes);
  return 0;
}
