#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/keyed_request.h"
#include "coordinator/journal.h"
#include "coordinator/served_model.h"

namespace trireme {

struct KeyedRequestsOptions {
  std::filesystem::path journal;                   // empty: none
  std::chrono::milliseconds client_grace{30'000};  // a request goes on so long without a client
  std::chrono::seconds ttl{3600};                  // answers are kept so long after their last use
  uint32_t entries_max = 10'000;
  uint64_t bytes_max = uint64_t{256} << 20;  // of answers in memory, and of the journal's file
};

// InvalidArgument unless it is 1 to 128 printable ASCII characters.
absl::Status CheckIdempotencyKey(const std::string& key);

// The seed of a request that names none: the same for the same key, so that an answer whose record
// is lost is computed to the same tokens once more.
uint64_t SeedOfKey(const std::string& tenant, const std::string& key);

// The requests with an idempotency key, by tenant and key, and their journal (docs/idempotency.md).
// A thread of its own gives up what has no client, forgets what is old, and writes the journal.
// Thread safe.
class KeyedRequests {
 public:
  // The journal may be null.
  KeyedRequests(const ServedModel& model, Engine& engine, std::unique_ptr<Journal> journal,
                const KeyedRequestsOptions& options);
  ~KeyedRequests();  // stops

  // Gives the call a request with a key, a new one or one that goes on. Reads and writes the
  // journal, as Forget does: not for gRPC's threads.
  void Start(const std::shared_ptr<GenerateCall>& call, const PreparedRequest& prepared);

  // Ends what is computed under the key and forgets it.
  absl::Status Forget(const std::string& tenant, const std::string& key);

  // Writes down what the engine, which must have stopped, has computed. Nothing is kept from now
  // on.
  void Stop();

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, key
  using Clock = KeyedRequest::Clock;

  // Held: what a call is about to show is not forgotten as idle.
  absl::StatusOr<std::shared_ptr<KeyedRequest>> Find(const PreparedRequest& prepared);
  // With mutex_ held.
  absl::StatusOr<std::shared_ptr<KeyedRequest>> Load(const Key& key);
  absl::StatusOr<std::shared_ptr<KeyedRequest>> Add(const Key& key,
                                                    const PreparedRequest& prepared);
  // Forgets the idle request that was not used for longest; false if none is idle.
  bool ForgetOldest();
  void Forget(std::map<Key, std::shared_ptr<KeyedRequest>>::iterator entry);

  void Loop();
  void Tend();
  void WriteJournal();
  // Logs the first error; answers are still right without the journal, only slower.
  void Note(const absl::Status& status);

  const ServedModel& model_;
  Engine& engine_;
  const std::unique_ptr<Journal> journal_;
  const KeyedRequestsOptions options_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Key, std::shared_ptr<KeyedRequest>> entries_;  // guarded by mutex_
  bool stopping_ = false;                                 // guarded by mutex_
  std::atomic<bool> journal_failed_{false};
  std::thread thread_;
};

}  // namespace trireme
