#pragma once

#include "absl/status/statusor.h"
#include "coordinator/gateway/sampling.h"
#include "coordinator/text/gguf_tokens.h"
#include "parallel/gguf_file.h"

namespace trireme {

// What a GGUF file says about sampling: the keys general.sampling.*, and the tokens that end a text
// or a turn. Files name one or two of those by key; the others, which generation_config.json lists
// for the same model, are known by their text (text/gguf_tokens.h).
absl::StatusOr<SamplingDefaults> GgufSamplingDefaults(const GgufFile& file,
                                                      const GgufTokens& tokens);

}  // namespace trireme
