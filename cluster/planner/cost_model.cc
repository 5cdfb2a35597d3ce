#include "cluster/planner/cost_model.h"

#include <algorithm>
#include <cmath>

namespace trireme {
namespace {

constexpr double kActivationBytes = 4;  // float32

// Reading and multiplying overlap, as far as the device can do both at once.
struct Roofline {
  double bytes = 0;
  double compute_s = 0;

  void Add(const Products& products, double read_share, double tokens, const DeviceSpec& device) {
    const double rate =
        (products.rate_8bit ? device.flops_8bit : device.flops_16bit) * device.compute_efficiency;
    bytes += products.bytes * read_share;
    compute_s += 2 * products.elements * tokens / rate;
  }
  double Seconds(const DeviceSpec& device) const {
    const double read_s = bytes / (device.memory_bytes_per_s * device.memory_efficiency);
    return std::max(read_s, compute_s + device.reading_exposed * read_s);
  }
};

// Of a whole step.
struct Totals {
  int64_t tokens = 0;
  int64_t sampled = 0;
};

Totals Sum(std::span<const StepTokens> parts) {
  Totals sum;
  for (const StepTokens& part : parts) {
    sum.tokens += part.sequences * part.tokens;
    sum.sampled += part.sampled;
  }
  return sum;
}

double LinearSeconds(const StageWork& work, const Totals& step, const DeviceSpec& device) {
  const auto tokens = static_cast<double>(step.tokens);
  Roofline layers, head;
  for (const Products& products : work.dense) layers.Add(products, 1, tokens, device);
  if (work.num_experts > 0) {
    const double share =
        static_cast<double>(work.experts_per_token) / static_cast<double>(work.num_experts);
    // The expected part of the experts that some token chose, if all are as likely.
    const double touched = 1 - std::pow(1 - share, tokens);
    for (const Products& products : work.experts) {
      layers.Add(products, touched, tokens * share, device);
    }
  }
  const double sampled = static_cast<double>(step.sampled);
  if (sampled > 0) {
    for (const Products& products : work.head) head.Add(products, 1, sampled, device);
  }
  return layers.Seconds(device) + head.Seconds(device);
}

// Tokens whose keys a sequence's step reads, and the mean number that one of its queries sees.
struct Seen {
  double read = 0;
  double mean = 0;
};

Seen SeenTokens(const StepTokens& step, int64_t window) {
  const double end = static_cast<double>(step.context);
  const double tokens = static_cast<double>(step.tokens);
  const double mean = end - (tokens - 1) / 2;
  if (window == 0) return {.read = end, .mean = mean};
  const double limit = static_cast<double>(window);
  return {.read = std::min(end, limit + tokens - 1), .mean = std::min(mean, limit)};
}

void AddAttention(const StageWork& work, const StepTokens& part, const DeviceSpec& device,
                  Roofline& attention) {
  const double sequences = static_cast<double>(part.sequences);
  const double queries = sequences * static_cast<double>(part.tokens);
  const auto add = [&](double layers, const Seen& seen) {
    attention.Add({.bytes = layers * sequences * seen.read * work.kv_bytes_per_token,
                   .elements = layers * work.attention_elements * seen.mean},
                  1, queries, device);
  };
  for (size_t first = 0; first < work.windows.size();) {
    size_t end = first;
    while (end < work.windows.size() && work.windows[end] == work.windows[first]) ++end;
    add(static_cast<double>(end - first), SeenTokens(part, work.windows[first]));
    first = end;
  }
  const double image = static_cast<double>(work.image_tokens);
  add(static_cast<double>(work.cross_layers), {.read = image, .mean = image});
}

double CommunicationSeconds(const StageWork& work, const Totals& step, const LinkSpec& link) {
  const double activations = static_cast<double>(step.tokens * work.hidden_size);
  const double logits = static_cast<double>(step.sampled * work.logits);
  return work.all_reduces * AllReduceSeconds(link, work.tp, activations * kActivationBytes) +
         (logits > 0 ? AllGatherSeconds(link, work.tp, logits * kActivationBytes) : 0);
}

}  // namespace

double AllReduceSeconds(const LinkSpec& link, int ranks, double bytes) {
  if (ranks < 2) return 0;
  const double n = ranks;
  const double ring = 2 * (n - 1) * (link.alpha_s + bytes / n / link.bytes_per_s);
  const double doubling = std::ceil(std::log2(n)) * (link.alpha_s + bytes / link.bytes_per_s);
  return std::min(ring, doubling);
}

double AllGatherSeconds(const LinkSpec& link, int ranks, double bytes) {
  if (ranks < 2) return 0;
  const double n = ranks;
  return (n - 1) * (link.alpha_s + bytes / n / link.bytes_per_s);
}

double SendSeconds(const LinkSpec& link, double bytes) {
  return link.alpha_s + bytes / link.bytes_per_s;
}

double StageSeconds(const StageWork& work, std::span<const StepTokens> parts,
                    const DeviceSpec& device, const LinkSpec& link) {
  const Totals step = Sum(parts);
  Roofline attention;
  for (const StepTokens& part : parts) AddAttention(work, part, device, attention);
  return LinearSeconds(work, step, device) + attention.Seconds(device) +
         CommunicationSeconds(work, step, link) +
         static_cast<double>(work.layers) * device.layer_overhead_s;
}

}  // namespace trireme
