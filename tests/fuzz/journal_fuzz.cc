// Any file as a journal, and any bytes as its rows: refused, or entries that can be read, resumed
// and written again.
//
// The first byte chooses: a whole database file, or rows put into a journal as another program
// could, of four fields that are each preceded by their size.

#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "coordinator/journal.h"

namespace {

std::string Take(std::string_view& rest) {
  if (rest.empty()) return "";
  const auto size = std::min<size_t>(static_cast<unsigned char>(rest.front()) * 4, rest.size() - 1);
  std::string field(rest.substr(1, size));
  rest.remove_prefix(1 + size);
  return field;
}

void PutRow(sqlite3* db, const char* sql, int64_t number, const std::string& a,
            const std::string& b) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, nullptr) != SQLITE_OK) std::abort();
  sqlite3_bind_int64(statement, 1, number);
  sqlite3_bind_blob64(statement, 2, a.data(), a.size(), SQLITE_TRANSIENT);
  sqlite3_bind_blob64(statement, 3, b.data(), b.size(), SQLITE_TRANSIENT);
  sqlite3_step(statement);  // it may contradict the schema
  sqlite3_finalize(statement);
}

void PutRows(const std::string& path, std::string_view rest) {
  if (!trireme::Journal::Open(path, 1 << 20).ok()) std::abort();
  sqlite3* db = nullptr;
  if (sqlite3_open(path.c_str(), &db) != SQLITE_OK) std::abort();
  const std::string version = Take(rest), request = Take(rest);
  PutRow(db,
         "INSERT INTO request (id, tenant, key, used_unix_s, version, request) "
         "VALUES (?, '', 'k', 1, ?, ?)",
         1, version, request);
  for (int64_t first = 0; !rest.empty() && first < 64;) {
    const int64_t step = static_cast<unsigned char>(rest.front());
    rest.remove_prefix(1);
    PutRow(db, "INSERT INTO tokens (request, first, tokens) SELECT 1, ?, ? WHERE ? IS NOT NULL",
           first, Take(rest), "");
    first += step;
  }
  sqlite3_close(db);
}

// `sound`: its pages are those that SQLite has written.
void Use(const std::string& path, bool sound) {
  const auto journal = trireme::Journal::Open(path, 1 << 20);
  if (!journal.ok()) {
    if (journal.status().message().empty()) std::abort();
    return;
  }
  const auto entry = (*journal)->Find("", "k");
  if (entry.ok() && entry->has_value()) {
    trireme::JournalBatch batch{.id = (*entry)->id,
                                .first = (*entry)->tokens.size(),
                                .version = (*entry)->version,
                                .tokens = {}};
    batch.tokens.add_tokens()->mutable_token()->set_token_id(7);
    if ((*journal)->Append({&batch, 1}, 2).ok()) {
      const auto again = (*journal)->Find("", "k");
      if (sound && (!again.ok() || !again->has_value() ||
                    (*again)->tokens.size() != (*entry)->tokens.size() + 1)) {
        std::abort();
      }
    }
  }
  (void)(*journal)->Insert("", "new", {}, 2);
  (void)(*journal)->Trim(0, 1);
  (void)(*journal)->Erase("", "k");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("journal_fuzz_" + std::to_string(getpid())))
          .string();
  for (const char* suffix : {"", "-wal", "-shm", "-journal"})
    std::filesystem::remove(path + suffix);
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    PutRows(path, rest);
  } else {
    std::ofstream(path, std::ios::binary) << rest;
  }
  Use(path, data[0] % 2 == 0);
  for (const char* suffix : {"", "-wal", "-shm", "-journal"})
    std::filesystem::remove(path + suffix);
  return 0;
}
