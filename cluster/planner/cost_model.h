#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cluster/planner/hardware.h"

namespace trireme {

// Predicted times, in seconds, from a roofline (Williams, Waterman, Patterson, CACM 52(4), 2009)
// for what a rank computes, and alpha-beta for what ranks say to each other. All pure functions.
// Formulas and assumptions: docs/planner.md.

// The cheaper of a ring, 2 (n - 1) steps of bytes / n, and recursive doubling, log2 n steps of all
// bytes: small messages take the second. 0 for one rank.
double AllReduceSeconds(const LinkSpec& link, int ranks, double bytes);
// Each rank has bytes / ranks and gets the others'.
double AllGatherSeconds(const LinkSpec& link, int ranks, double bytes);
double SendSeconds(const LinkSpec& link, double bytes);

// Products of one kind: `bytes` of weights and `elements`, each a multiplication and an addition
// for each token.
struct Products {
  double bytes = 0;
  double elements = 0;
  bool rate_8bit = false;  // at flops_8bit, not flops_16bit
};

// What the busiest rank of a pipeline stage does in a step.
struct StageWork {
  std::vector<Products> dense;    // run for every token
  std::vector<Products> experts;  // all of them; a token runs some
  std::vector<Products> head;     // run for sampled tokens only
  int64_t layers = 0;
  int64_t num_experts = 0;
  int64_t experts_per_token = 0;
  // Of a token in each layer's cache, and multiplications of a query with it (heads x head_dim, for
  // keys and again for values); the layers' windows in tokens, 0 without.
  double kv_bytes_per_token = 0;
  double attention_elements = 0;
  std::vector<int64_t> windows;  // one for each layer of self-attention
  int64_t cross_layers = 0;      // which look at image_tokens instead
  int64_t image_tokens = 0;
  // Between the tensor parallel ranks; the tokens' activations are float32.
  int tp = 1;
  int64_t hidden_size = 0;
  double all_reduces = 0;  // of an activation for each token
  int64_t logits = 0;      // gathered for each sampled token; 0 but in the last stage
};

// Tokens of a step: `sequences` of `tokens` each, which end at `context` tokens.
struct StepTokens {
  int64_t sequences = 1;
  int64_t tokens = 1;
  int64_t context = 1;
  int64_t sampled = 1;  // tokens whose logits are computed
};

// Time of one step on this device, its tensor parallel ranks on `link`. The parts are computed
// together, as a step with decodes and prompts: weights are read once for all of them.
double StageSeconds(const StageWork& work, std::span<const StepTokens> parts,
                    const DeviceSpec& device, const LinkSpec& link);
inline double StageSeconds(const StageWork& work, const StepTokens& step, const DeviceSpec& device,
                           const LinkSpec& link) {
  return StageSeconds(work, {&step, 1}, device, link);
}

// A step's way through all stages of a gang.
struct StepTimes {
  double latency_s = 0;  // until it is through
  double busy_s = 0;     // of the slowest stage, after which the next step can follow
};

}  // namespace trireme
