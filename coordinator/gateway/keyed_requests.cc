#include "coordinator/gateway/keyed_requests.h"

#include <algorithm>
#include <ctime>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/prefix_hash.h"
#include "coordinator/retry_hint.h"

namespace trireme {
namespace {

constexpr size_t kKeyBytesMax = 128;
// How much work a coordinator that is killed loses; its successor computes it again.
constexpr std::chrono::milliseconds kTendInterval{100};

}  // namespace

absl::Status CheckIdempotencyKey(const std::string& key) {
  const auto printable = [](char c) { return c >= 0x21 && c <= 0x7E; };
  if (!key.empty() && key.size() <= kKeyBytesMax &&
      std::all_of(key.begin(), key.end(), printable)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("idempotency_key must be 1 to ", kKeyBytesMax,
                                                 " printable ASCII characters without space"));
}

uint64_t SeedOfKey(const std::string& tenant, const std::string& key) {
  return HashNamespace(HashKey{}, absl::StrCat("seed;", tenant.size(), ":", tenant, ";", key)).low;
}

KeyedRequests::KeyedRequests(const ServedModel& model, Engine& engine,
                             std::unique_ptr<Journal> journal, const KeyedRequestsOptions& options)
    : model_(model),
      engine_(engine),
      journal_(std::move(journal)),
      options_(options),
      thread_([this] { Loop(); }) {}

KeyedRequests::~KeyedRequests() { Stop(); }

void KeyedRequests::Start(const std::shared_ptr<GenerateCall>& call,
                          const PreparedRequest& prepared) {
  const absl::StatusOr<std::shared_ptr<KeyedRequest>> request = Find(prepared);
  if (!request.ok()) return call->OnError(request.status());
  const absl::Cleanup release = [&] { (*request)->Release(); };
  if ((*request)->fingerprint() != prepared.fingerprint) {
    return call->OnError(absl::AlreadyExistsError(
        "this idempotency key is that of another request; a new request needs a new key"));
  }
  (*request)->Attach(call, prepared);
}

absl::StatusOr<std::shared_ptr<KeyedRequest>> KeyedRequests::Find(const PreparedRequest& prepared) {
  const Key key(prepared.scheduling.tenant(), prepared.idempotency_key);
  const std::lock_guard lock(mutex_);
  if (stopping_) {
    return WithRetry(absl::UnavailableError("the coordinator is shutting down"), kNoGangRetryMs);
  }
  if (const auto found = entries_.find(key); found != entries_.end()) {
    found->second->Hold();
    return found->second;
  }
  while (entries_.size() >= options_.entries_max) {
    if (ForgetOldest()) continue;
    return WithRetry(absl::ResourceExhaustedError(absl::StrCat(
                         options_.entries_max,
                         " requests with an idempotency key are computed; try again later, or "
                         "raise --idempotency-keys-max")),
                     kNoGangRetryMs);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<KeyedRequest> request, Load(key));
  if (request == nullptr) {
    ASSIGN_OR_RETURN(request, Add(key, prepared));
  }
  request->Hold();
  entries_.emplace(key, request);
  changed_.notify_all();
  return request;
}

absl::StatusOr<std::shared_ptr<KeyedRequest>> KeyedRequests::Load(const Key& key) {
  if (journal_ == nullptr) return nullptr;
  ASSIGN_OR_RETURN(const std::optional<JournalEntry> entry, journal_->Find(key.first, key.second));
  if (!entry.has_value()) return nullptr;
  return KeyedRequest::Restore(model_, engine_, *entry);
}

absl::StatusOr<std::shared_ptr<KeyedRequest>> KeyedRequests::Add(const Key& key,
                                                                 const PreparedRequest& prepared) {
  auto request = std::make_shared<KeyedRequest>(model_, engine_, prepared);
  if (journal_ == nullptr) return request;
  // Before its first token: a client that has one finds the request again.
  const absl::StatusOr<int64_t> id =
      journal_->Insert(key.first, key.second, request->ToJournal(), std::time(nullptr));
  Note(id.status());
  if (id.ok()) request->SetJournalId(*id);
  return request;
}

bool KeyedRequests::ForgetOldest() {
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (!it->second->idle()) continue;
    if (oldest == entries_.end() || it->second->last_used() < oldest->second->last_used()) {
      oldest = it;
    }
  }
  if (oldest == entries_.end()) return false;
  Forget(oldest);
  return true;
}

void KeyedRequests::Forget(std::map<Key, std::shared_ptr<KeyedRequest>>::iterator entry) {
  if (journal_ != nullptr) Note(journal_->Erase(entry->first.first, entry->first.second));
  entries_.erase(entry);
}

absl::Status KeyedRequests::Forget(const std::string& tenant, const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find({tenant, key});
  if (found == entries_.end()) {
    return journal_ == nullptr ? absl::OkStatus() : journal_->Erase(tenant, key);
  }
  found->second->Abandon(absl::CancelledError("the request was told to be forgotten"));
  Forget(found);
  return absl::OkStatus();
}

void KeyedRequests::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void KeyedRequests::Loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [this] { return stopping_ || !entries_.empty(); });
    changed_.wait_for(lock, kTendInterval, [this] { return stopping_; });
    Tend();
    lock.unlock();
    WriteJournal();
    lock.lock();
  }
  lock.unlock();
  WriteJournal();
}

void KeyedRequests::Tend() {
  const Clock::time_point now = Clock::now();
  uint64_t bytes = 0;
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto entry = it++;
    KeyedRequest& request = *entry->second;
    request.CheckClient(now, options_.client_grace);
    if (request.empty() || (request.idle() && now - request.last_used() > options_.ttl)) {
      Forget(entry);
    } else {
      bytes += request.bytes();
    }
  }
  while (bytes > options_.bytes_max && ForgetOldest()) {
    bytes = 0;
    for (const auto& [key, request] : entries_) bytes += request->bytes();
  }
}

void KeyedRequests::WriteJournal() {
  if (journal_ == nullptr) return;
  std::vector<std::shared_ptr<KeyedRequest>> requests;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, request] : entries_) requests.push_back(request);
  }
  std::vector<JournalBatch> batches;
  std::vector<KeyedRequest*> with_news;
  for (const auto& request : requests) {
    if (auto news = request->TakeNews()) {
      batches.push_back(*std::move(news));
      with_news.push_back(request.get());
    }
  }
  if (batches.empty()) return;
  const int64_t now_unix_s = std::time(nullptr);
  absl::Status status = journal_->Append(batches, now_unix_s);
  if (absl::IsResourceExhausted(status)) {
    // The oldest half makes room.
    Note(journal_->Trim(now_unix_s - options_.ttl.count(), requests.size() / 2));
    status = journal_->Append(batches, now_unix_s);
  } else if (status.ok()) {
    Note(journal_->Trim(now_unix_s - options_.ttl.count(), options_.entries_max));
  }
  Note(status);
  if (status.ok()) return;
  // What is written is a beginning that can be gone on with; later tokens would leave a gap.
  for (KeyedRequest* const request : with_news) request->SetJournalId(0);
}

void KeyedRequests::Note(const absl::Status& status) {
  if (status.ok() || journal_failed_.exchange(true)) return;
  LogWarning(absl::StrCat(status.message(),
                          "; answers that are cut off from now on may be computed anew"));
}

}  // namespace trireme
