#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "parallel/model_config.h"

namespace trireme {

// What a tensor of a GGUF file is called in a Hugging Face checkpoint.
struct GgufNames {
  std::vector<std::string> names;  // empty: the architecture has no such tensor
  bool stacked = false;            // all experts of a layer, whose first dimension they are
};

// Thread safe. "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight".
GgufNames HuggingFaceNames(std::string_view gguf, const ModelConfig& config);

}  // namespace trireme
