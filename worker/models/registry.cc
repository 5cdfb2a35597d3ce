#include <array>

#include "absl/strings/str_cat.h"
#include "worker/models/llama.h"
#include "worker/models/model.h"

namespace trireme {
namespace {

struct Architecture {
  const char* name;  // of config.json's "architectures"
  absl::StatusOr<std::unique_ptr<Model>> (*make)(const ModelConfig&, const RankContext&);
};

// The others are Llama with other values of ModelConfig's fields.
constexpr std::array kArchitectures = {
    Architecture{"LlamaForCausalLM", &MakeLlama},  Architecture{"MistralForCausalLM", &MakeLlama},
    Architecture{"Qwen2ForCausalLM", &MakeLlama},  Architecture{"Qwen3ForCausalLM", &MakeLlama},
    Architecture{"Gemma3ForCausalLM", &MakeLlama}, Architecture{"MixtralForCausalLM", &MakeLlama},
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config,
                                                 const RankContext& rank) {
  for (const Architecture& architecture : kArchitectures) {
    if (config.architecture == architecture.name) return architecture.make(config, rank);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unsupported: architecture \"", config.architecture, "\""));
}

}  // namespace trireme
