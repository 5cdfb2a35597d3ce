#include "coordinator/journal.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr int kApplicationId = 0x5452494A;  // "TRIJ", in the file's header
constexpr int kFormat = 1;
constexpr uint64_t kPageBytes = 4096;

constexpr const char* kSchema = R"(
CREATE TABLE request (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, used_unix_s INTEGER NOT NULL,
  version TEXT NOT NULL DEFAULT '', request BLOB NOT NULL, UNIQUE (tenant, key));
CREATE INDEX request_used ON request (used_unix_s);
CREATE TABLE tokens (
  request INTEGER NOT NULL REFERENCES request ON DELETE CASCADE, first INTEGER NOT NULL,
  tokens BLOB NOT NULL, PRIMARY KEY (request, first)) WITHOUT ROWID;
)";

}  // namespace

void Journal::Closer::operator()(sqlite3* db) const { sqlite3_close_v2(db); }

// A prepared statement with its parameters. Errors come out of Next.
class Journal::Statement {
 public:
  Statement(Journal& journal, const char* sql) : journal_(journal) {
    sqlite3_prepare_v2(journal.db_.get(), sql, -1, &statement_, nullptr);
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& Bind(int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Statement& BindText(const std::string& text) {
    sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_TRANSIENT,
                        SQLITE_UTF8);
    return *this;
  }
  Statement& BindBytes(const std::string& bytes) {
    sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    return *this;
  }

  // Whether there is another row.
  absl::StatusOr<bool> Next() {
    const int code = statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return journal_.Error("using it");
  }
  // To its end.
  absl::Status Run() {
    absl::StatusOr<bool> row = Next();
    while (row.ok() && *row) row = Next();
    return row.status();
  }

  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Bytes(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
    return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
  }

 private:
  Journal& journal_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const std::filesystem::path& path,
                                                       uint64_t bytes_max) {
  std::unique_ptr<Journal> journal(new Journal(path));
  RETURN_IF_ERROR(journal->OpenFile(bytes_max));
  return journal;
}

Journal::~Journal() = default;

absl::Status Journal::Error(const char* what) const {
  const int code = db_ == nullptr ? SQLITE_NOMEM : sqlite3_errcode(db_.get());
  const std::string file = absl::StrCat("journal ", path_.string(), ": ");
  switch (code) {
    case SQLITE_NOTADB:
      return absl::FailedPreconditionError(
          absl::StrCat(file, "the file is no journal; name another with --journal"));
    case SQLITE_CORRUPT:
      return absl::FailedPreconditionError(absl::StrCat(
          file, "the file is damaged; move it away: answers under way are computed anew"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(absl::StrCat(file, "another process has it open"));
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(file, "it is full"));
    default:
      return absl::UnavailableError(
          absl::StrCat(file, what, " failed: ", sqlite3_errmsg(db_.get())));
  }
}

absl::Status Journal::Execute(const char* sql) {
  if (sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK) return absl::OkStatus();
  return Error("using it");
}

absl::Status Journal::OpenFile(uint64_t bytes_max) {
  sqlite3* db = nullptr;
  const int code = sqlite3_open_v2(
      path_.c_str(), &db,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW,
      nullptr);
  db_.reset(db);
  if (code != SQLITE_OK) return Error("opening it");
  sqlite3_busy_timeout(db, 1000);
  RETURN_IF_ERROR(Execute("PRAGMA trusted_schema = OFF; PRAGMA locking_mode = EXCLUSIVE"));
  const auto number = [this](const char* sql) -> absl::StatusOr<int64_t> {
    Statement statement(*this, sql);
    ASSIGN_OR_RETURN(const bool row, statement.Next());
    return row ? statement.Int(0) : 0;
  };
  ASSIGN_OR_RETURN(const int64_t tables, number("SELECT count(*) FROM sqlite_schema"));
  ASSIGN_OR_RETURN(const int64_t application, number("PRAGMA application_id"));
  if (tables > 0 && application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat("journal ", path_.string(),
                     ": the file is another program's database; name another with --journal"));
  }
  ASSIGN_OR_RETURN(const int64_t format, number("PRAGMA user_version"));
  if (tables > 0 && format != kFormat) {
    return absl::FailedPreconditionError(
        absl::StrCat("journal ", path_.string(), " has format ", format, ", this program writes ",
                     kFormat, "; move it away: answers under way are computed anew"));
  }
  if (tables > 0) {
    Statement check(*this, "PRAGMA quick_check(1)");
    ASSIGN_OR_RETURN(const bool row, check.Next());
    if (!row || check.Bytes(0) != "ok") {
      return absl::FailedPreconditionError(
          absl::StrCat("journal ", path_.string(), ": the file is damaged (", check.Bytes(0),
                       "); move it away: answers under way are computed anew"));
    }
  }
  // Commits go to the file cache; the disk follows at checkpoints.
  RETURN_IF_ERROR(
      Execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; "
              "PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON"));
  RETURN_IF_ERROR(
      Execute(absl::StrCat("PRAGMA max_page_count = ", bytes_max / kPageBytes).c_str()));
  if (tables > 0) {
    ASSIGN_OR_RETURN(next_id_, number("SELECT 1 + max((SELECT coalesce(max(id), 0) FROM request), "
                                      "(SELECT coalesce(max(request), 0) FROM tokens))"));
    return absl::OkStatus();
  }
  return Execute(absl::StrCat("BEGIN; PRAGMA application_id = ", kApplicationId,
                              "; PRAGMA user_version = ", kFormat, "; ", kSchema, "COMMIT")
                     .c_str());
}

absl::StatusOr<std::optional<JournalEntry>> Journal::Find(const std::string& tenant,
                                                          const std::string& key) {
  const std::lock_guard lock(mutex_);
  const absl::Status damaged =
      absl::DataLossError(absl::StrCat("journal ", path_.string(), ": an entry is damaged"));
  Statement request(*this, "SELECT id, version, request FROM request WHERE tenant = ? AND key = ?");
  ASSIGN_OR_RETURN(const bool found, request.BindText(tenant).BindText(key).Next());
  if (!found) return std::nullopt;
  JournalEntry entry;
  entry.id = request.Int(0);
  entry.version = request.Bytes(1);
  if (!entry.request.ParseFromString(request.Bytes(2))) return damaged;
  Statement batch(*this, "SELECT first, tokens FROM tokens WHERE request = ? ORDER BY first");
  batch.Bind(entry.id);
  while (true) {
    ASSIGN_OR_RETURN(const bool row, batch.Next());
    if (!row) return entry;
    v1::JournaledTokens tokens;
    if (static_cast<uint64_t>(batch.Int(0)) != entry.tokens.size() ||
        !tokens.ParseFromString(batch.Bytes(1))) {
      return damaged;
    }
    entry.tokens.insert(entry.tokens.end(), tokens.tokens().begin(), tokens.tokens().end());
    entry.failure = tokens.failure();
  }
}

absl::StatusOr<int64_t> Journal::Insert(const std::string& tenant, const std::string& key,
                                        const v1::JournaledRequest& request, int64_t now_unix_s) {
  const std::lock_guard lock(mutex_);
  const int64_t id = next_id_;
  Statement insert(
      *this, "INSERT INTO request (id, tenant, key, used_unix_s, request) VALUES (?, ?, ?, ?, ?)");
  RETURN_IF_ERROR(insert.Bind(id)
                      .BindText(tenant)
                      .BindText(key)
                      .Bind(now_unix_s)
                      .BindBytes(request.SerializeAsString())
                      .Run());
  ++next_id_;
  return id;
}

absl::Status Journal::AppendOne(const JournalBatch& batch, int64_t now_unix_s) {
  // The entry may have been forgotten meanwhile.
  Statement append(*this,
                   "INSERT INTO tokens (request, first, tokens) "
                   "SELECT id, ?, ? FROM request WHERE id = ?");
  RETURN_IF_ERROR(append.Bind(static_cast<int64_t>(batch.first))
                      .BindBytes(batch.tokens.SerializeAsString())
                      .Bind(batch.id)
                      .Run());
  Statement update(*this, "UPDATE request SET used_unix_s = ?, version = ? WHERE id = ?");
  return update.Bind(now_unix_s).BindText(batch.version).Bind(batch.id).Run();
}

absl::Status Journal::Append(std::span<const JournalBatch> batches, int64_t now_unix_s) {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(Execute("BEGIN"));
  for (const JournalBatch& batch : batches) {
    const absl::Status status = AppendOne(batch, now_unix_s);
    if (status.ok()) continue;
    if (sqlite3_get_autocommit(db_.get()) == 0) (void)Execute("ROLLBACK");
    return status;
  }
  return Execute("COMMIT");
}

absl::Status Journal::Erase(const std::string& tenant, const std::string& key) {
  const std::lock_guard lock(mutex_);
  Statement erase(*this, "DELETE FROM request WHERE tenant = ? AND key = ?");
  return erase.BindText(tenant).BindText(key).Run();
}

absl::Status Journal::Trim(int64_t oldest_unix_s, uint64_t entries_max) {
  const std::lock_guard lock(mutex_);
  Statement old(*this, "DELETE FROM request WHERE used_unix_s < ?");
  RETURN_IF_ERROR(old.Bind(oldest_unix_s).Run());
  Statement excess(*this,
                   "DELETE FROM request WHERE id IN (SELECT id FROM request "
                   "ORDER BY used_unix_s DESC, id DESC LIMIT -1 OFFSET ?)");
  return excess.Bind(static_cast<int64_t>(entries_max)).Run();
}

}  // namespace trireme
