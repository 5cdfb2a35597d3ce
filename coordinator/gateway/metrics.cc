#include "coordinator/gateway/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>
#include <vector>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

class EngineMetrics final : public prometheus::Collectable {
 public:
  explicit EngineMetrics(const Engine& engine) : engine_(engine) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    const v1::GetStatsResponse s = engine_.Stats();
    const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0; };
    std::vector<prometheus::MetricFamily> families;
    const auto gauge = [&](const char* name, double value, const char* help) {
      Add(families, name, prometheus::MetricType::Gauge, value, help);
    };
    const auto count = [&](const char* name, double value, const char* help) {
      Add(families, name, prometheus::MetricType::Counter, value, help);
    };
    gauge("ready", engine_.ready() ? 1 : 0, "A gang of workers is serving");
    gauge("gangs", s.gangs(), "Gangs of workers that serve");
    gauge("sequences_running", s.running(), "Sequences that are computed");
    gauge("sequences_waiting", s.waiting(), "Sequences that wait for a place");
    gauge("sequences_paused", s.paused(), "Sequences whose client does not read");
    gauge("kv_cache_tokens", static_cast<double>(s.kv_tokens()), "Tokens the KV cache holds");
    gauge("kv_cache_usage_ratio",
          share(static_cast<double>(s.kv_tokens_used()), static_cast<double>(s.kv_tokens())),
          "Share of the KV cache in blocks of running sequences");
    gauge("kv_cache_cached_tokens", static_cast<double>(s.kv_tokens_cached()),
          "Tokens in free blocks that still hold a known prefix");
    gauge("prefix_cache_hit_ratio",
          share(static_cast<double>(s.prefix_tokens_hit()),
                static_cast<double>(s.prefix_tokens_asked())),
          "Share of looked up tokens that were found, since the start");
    count("prefix_cache_queries_tokens_total", static_cast<double>(s.prefix_tokens_asked()),
          "Tokens looked up in the prefix cache");
    count("prefix_cache_hits_tokens_total", static_cast<double>(s.prefix_tokens_hit()),
          "Tokens found in the prefix cache");
    count("steps_total", static_cast<double>(s.steps()), "Steps computed");
    count("prefill_tokens_total", static_cast<double>(s.tokens_prefilled()),
          "Prompt tokens computed");
    count("generation_tokens_total", static_cast<double>(s.tokens_generated()), "Tokens sampled");
    count("preemptions_total", static_cast<double>(s.preemptions()),
          "Sequences that gave way to others");
    count("swaps_total", static_cast<double>(s.swaps()), "Preemptions to host memory");
    count("requests_finished_total", static_cast<double>(s.requests_finished()),
          "Requests answered to their end");
    count("requests_cancelled_total", static_cast<double>(s.requests_cancelled()),
          "Requests their client gave up");
    count("requests_refused_total", static_cast<double>(s.requests_refused()),
          "Requests refused at once");
    count("requests_failed_total", static_cast<double>(s.requests_failed()),
          "Requests that failed later");
    count("step_seconds_total", s.step_ms_total() / 1e3, "Time workers spent in steps");
    count("idle_seconds_total", s.idle_ms_total() / 1e3,
          "Time workers waited for a plan although there was work");
    count("bubble_seconds_total", s.bubble_ms_total() / 1e3,
          "Time the last pipeline stage waited for others");
    return families;
  }

 private:
  static void Add(std::vector<prometheus::MetricFamily>& families, const char* name,
                  prometheus::MetricType type, double value, const char* help) {
    prometheus::MetricFamily& family = families.emplace_back();
    family.name = absl::StrCat("trireme_", name);
    family.help = help;
    family.type = type;
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    (type == prometheus::MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  }

  const Engine& engine_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Listen(const std::string& address,
                                                                         const Engine& engine) {
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint());
  endpoint->collectable_ = std::make_shared<EngineMetrics>(engine);
  try {
    endpoint->exposer_ = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat(
        "--metrics: cannot listen on ", address,
        ": the port is in use or the address is not of this machine (", error.what(), ")"));
  }
  endpoint->exposer_->RegisterCollectable(endpoint->collectable_);
  return endpoint;
}

MetricsEndpoint::~MetricsEndpoint() = default;

int MetricsEndpoint::port() const { return exposer_->GetListeningPorts().front(); }

}  // namespace trireme
