#include "cluster/bench_serve_client.h"

#include <algorithm>
#include <utility>

namespace trireme {

// One stream. The generator's map keeps it until OnDone, which is gRPC's last use of it.
class LoadGenerator::Call : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(LoadGenerator& generator, Workload::Request request, bool intruder)
      : generator_(generator), request_(std::move(request.message)), intruder_(intruder) {
    record_.prompt_tokens = static_cast<uint32_t>(request_.prompt_token_ids().ids_size());
    record_.wanted_tokens = request_.sampling().max_tokens();
    record_.clamped = request.clamped;
  }

  void Start(v1::Inference::Stub& stub, double due_s, std::optional<double> deadline_s) {
    record_.start_s = generator_.Now();
    record_.lag_s = record_.start_s - due_s;
    if (deadline_s) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::microseconds(static_cast<int64_t>(*deadline_s * 1e6)));
    }
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    grpc::ClientReadReactor<v1::GenerateResponse>::StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const double now_s = generator_.Now();
    if (response_.token_ids_size() > 0) {
      record_.messages.push_back(
          {.at_s = now_s, .tokens = static_cast<uint32_t>(response_.token_ids_size())});
    }
    if (response_.has_usage()) record_.cached_tokens = response_.usage().cached_tokens();
    response_.Clear();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.end_s = generator_.Now();
    record_.code = status.error_code();
    record_.error = status.error_message();
    const auto& trailers = context_.GetServerTrailingMetadata();
    if (const auto found = trailers.find("retry-after"); found != trailers.end()) {
      record_.retry_after = std::string(found->second.data(), found->second.size());
    }
    generator_.OnEnd(this, std::move(record_), intruder_);  // deletes this
  }

 private:
  LoadGenerator& generator_;
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  grpc::ClientContext context_;
  RequestRecord record_;
  bool intruder_;
};

LoadGenerator::LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels) {
  for (const auto& channel : channels) stubs_.push_back(v1::Inference::NewStub(channel));
}

LoadGenerator::Result LoadGenerator::Run(const LoadOptions& options, const MakeRequest& make,
                                         const std::function<double()>& next_arrival,
                                         const std::optional<Workload::Request>& intruder) {
  result_ = {};
  start_ = Clock::now();
  Dispatch(options, make, next_arrival, intruder);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return calls_.empty(); });
  return std::move(result_);
}

void LoadGenerator::Dispatch(const LoadOptions& options, const MakeRequest& make,
                             const std::function<double()>& next_arrival,
                             std::optional<Workload::Request> intruder) {
  constexpr double kNever = 1e9;
  const double end_s = options.duration_s.value_or(kNever);
  uint64_t number = 0;
  double due_s = next_arrival();
  double free_s = 0;  // since when another call is allowed: a full house is not our lateness
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const double now_s = Now();
    const bool more = number < options.requests && due_s < end_s && now_s < end_s;
    if (!more && (!intruder || open_ == 0)) return;
    if (intruder && now_s >= *options.intrude_at_s) {
      lock.unlock();
      StartCall(*std::exchange(intruder, std::nullopt), *options.intrude_at_s, options.deadline_s,
                /*intruder=*/true);
      lock.lock();
      continue;
    }
    const bool room = open_ < options.concurrency;
    if (more && room && now_s >= due_s) {
      lock.unlock();
      StartCall(make(number++), std::max(due_s, free_s), options.deadline_s, /*intruder=*/false);
      due_s = next_arrival();
      lock.lock();
      continue;
    }
    double until_s = more ? (room ? due_s : end_s) : kNever;
    if (intruder) until_s = std::min(until_s, *options.intrude_at_s);
    changed_.wait_until(lock, start_ + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(until_s)));
    if (!room) free_s = Now();
  }
}

void LoadGenerator::StartCall(Workload::Request request, double due_s,
                              std::optional<double> deadline_s, bool intruder) {
  const CallPtr call = std::make_shared<Call>(*this, std::move(request), intruder);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    calls_.emplace(call.get(), call);
    if (!intruder) ++open_;
  }
  // Without the lock: gRPC may run callbacks on this thread.
  call->Start(*stubs_[next_stub_++ % stubs_.size()], due_s, deadline_s);
}

void LoadGenerator::OnEnd(Call* call, RequestRecord record, bool intruder) {
  CallPtr last;  // destroyed after the lock is released
  const std::lock_guard lock(mutex_);
  const auto found = calls_.find(call);
  last = std::move(found->second);
  calls_.erase(found);
  if (intruder) {
    result_.intruder = std::move(record);
  } else {
    result_.records.push_back(std::move(record));
    --open_;
  }
  changed_.notify_all();  // under the lock: afterwards the generator may be gone
}

void LoadGenerator::Stop() {
  std::vector<CallPtr> open;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& [address, call] : calls_) open.push_back(call);
    changed_.notify_all();
  }
  for (const CallPtr& call : open) call->Cancel();
}

}  // namespace trireme
