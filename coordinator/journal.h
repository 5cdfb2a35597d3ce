#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trireme/v1/journal.pb.h"

struct sqlite3;

namespace trireme {

// A request as the journal has it.
struct JournalEntry {
  int64_t id = 0;
  v1::JournaledRequest request;
  std::string version;  // of what computed the tokens (GangIsReady)
  std::vector<v1::JournaledToken> tokens;
  std::string failure;  // the message of the INTERNAL error that it ended with; empty: none
};

// New tokens of an entry.
struct JournalBatch {
  int64_t id = 0;
  uint64_t first = 0;  // how many it had before
  std::string version;
  v1::JournaledTokens tokens;
};

// Requests with an idempotency key and their tokens, in a file that outlives the coordinator, also
// one that is killed. Nothing waits for the disk: after a kill the operating system still writes,
// and what a power cut takes from the end is computed again to the same tokens. One coordinator at
// a time. Thread safe; calls take as long as writes to the file cache do.
class Journal {
 public:
  // Opens or creates it; it takes at most about so many bytes. FailedPrecondition says what is
  // wrong with the file: it is no journal, it is damaged, or another coordinator has it.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::filesystem::path& path,
                                                       uint64_t bytes_max);
  ~Journal();

  // DataLoss if the entry cannot be read.
  absl::StatusOr<std::optional<JournalEntry>> Find(const std::string& tenant,
                                                   const std::string& key);
  // Returns the new entry's id. There must be none with this key.
  absl::StatusOr<int64_t> Insert(const std::string& tenant, const std::string& key,
                                 const v1::JournaledRequest& request, int64_t now_unix_s);
  // All or nothing, but for entries that were forgotten meanwhile: of these, nothing.
  absl::Status Append(std::span<const JournalBatch> batches, int64_t now_unix_s);
  absl::Status Erase(const std::string& tenant, const std::string& key);
  // Forgets entries that were last written before a time, and the oldest beyond so many.
  absl::Status Trim(int64_t oldest_unix_s, uint64_t entries_max);

 private:
  struct Closer {
    void operator()(sqlite3* db) const;
  };
  class Statement;

  explicit Journal(std::filesystem::path path) : path_(std::move(path)) {}
  absl::Status OpenFile(uint64_t bytes_max);
  absl::Status Execute(const char* sql);
  absl::Status Error(const char* what) const;
  absl::Status AppendOne(const JournalBatch& batch, int64_t now_unix_s);

  const std::filesystem::path path_;
  std::mutex mutex_;
  std::unique_ptr<sqlite3, Closer> db_;  // guarded by mutex_
  // Guarded by mutex_. Batches may still come for an entry that is gone: none has its id again.
  int64_t next_id_ = 1;
};

}  // namespace trireme
