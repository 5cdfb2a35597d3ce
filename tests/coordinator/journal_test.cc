#include "coordinator/journal.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

class JournalTest : public testing::Test {
 protected:
  JournalTest() : path_(absl::StrCat(testing::TempDir(), "journal_test_", getpid(), ".db")) {
    Remove();
  }
  ~JournalTest() override { Remove(); }

  void Remove() {
    journal_ = nullptr;
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_ + suffix);
  }

  absl::Status Open(uint64_t bytes_max = 1 << 20) {
    journal_ = nullptr;
    absl::StatusOr<std::unique_ptr<Journal>> opened = Journal::Open(path_, bytes_max);
    if (opened.ok()) journal_ = *std::move(opened);
    return opened.status();
  }

  static v1::JournaledRequest Request(int32_t prompt) {
    v1::JournaledRequest request;
    request.add_prompt(prompt);
    return request;
  }

  static JournalBatch Batch(int64_t id, uint64_t first, int count) {
    JournalBatch batch{.id = id, .first = first, .version = "v", .tokens = {}};
    for (int i = 0; i < count; ++i) {
      batch.tokens.add_tokens()->mutable_token()->set_token_id(static_cast<int32_t>(first) + i);
    }
    return batch;
  }

  const std::string path_;
  std::unique_ptr<Journal> journal_;
};

TEST_F(JournalTest, KeepsRequestsAndTheirTokens) {
  ASSERT_TRUE(Open().ok());
  const auto a = journal_->Insert("t", "a", Request(1), 100);
  const auto b = journal_->Insert("", "a", Request(2), 100);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_FALSE(journal_->Insert("t", "a", Request(3), 100).ok());
  const std::vector<JournalBatch> batches = {Batch(*a, 0, 3), Batch(*b, 0, 1), Batch(*a, 3, 2)};
  ASSERT_TRUE(journal_->Append(batches, 101).ok());
  ASSERT_TRUE(Open().ok());
  const auto entry = journal_->Find("t", "a");
  ASSERT_TRUE(entry.ok() && entry->has_value()) << entry.status();
  EXPECT_EQ((*entry)->request.prompt(0), 1);
  EXPECT_EQ((*entry)->version, "v");
  ASSERT_EQ((*entry)->tokens.size(), 5u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ((*entry)->tokens[i].token().token_id(), i);
  EXPECT_FALSE(journal_->Find("u", "a")->has_value());
}

TEST_F(JournalTest, KeepsTheErrorThatARequestEndedWith) {
  ASSERT_TRUE(Open().ok());
  for (const int tokens : {0, 3}) {
    const std::string key = absl::StrCat(tokens);
    const auto id = journal_->Insert("", key, Request(1), 100);
    ASSERT_TRUE(id.ok());
    if (tokens > 0) {
      ASSERT_TRUE(journal_->Append(std::vector{Batch(*id, 0, tokens)}, 101).ok());
    }
    EXPECT_EQ((*journal_->Find("", key))->failure, "");
    JournalBatch failed = Batch(*id, static_cast<uint64_t>(tokens), 0);
    failed.tokens.set_failure("it kills workers");
    ASSERT_TRUE(journal_->Append(std::vector{failed}, 102).ok());
    const auto entry = journal_->Find("", key);
    ASSERT_TRUE(entry.ok() && entry->has_value()) << entry.status();
    EXPECT_EQ((*entry)->tokens.size(), static_cast<size_t>(tokens));
    EXPECT_EQ((*entry)->failure, "it kills workers");
  }
}

TEST_F(JournalTest, ForgetsWhatIsOldOrTooMuch) {
  ASSERT_TRUE(Open().ok());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(journal_->Insert("", absl::StrCat(i), Request(i), 100 + i).ok());
  }
  ASSERT_TRUE(journal_->Trim(102, 2).ok());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(journal_->Find("", absl::StrCat(i))->has_value(), i >= 3);
  ASSERT_TRUE(journal_->Erase("", "4").ok());
  EXPECT_FALSE(journal_->Find("", "4")->has_value());
  // Tokens of a request that was forgotten meanwhile.
  const std::vector<JournalBatch> late = {Batch(5, 0, 3)};
  EXPECT_TRUE(journal_->Append(late, 200).ok());
}

// Tokens of a request that was forgotten are nobody else's.
TEST_F(JournalTest, IdsAreNotUsedAgain) {
  ASSERT_TRUE(Open().ok());
  const auto a = journal_->Insert("", "a", Request(1), 100);
  const auto trimmed = journal_->Insert("", "trimmed", Request(2), 100);
  const std::vector<JournalBatch> used = {Batch(*a, 0, 1)};
  ASSERT_TRUE(journal_->Append(used, 101).ok());
  ASSERT_TRUE(journal_->Trim(0, 1).ok());
  ASSERT_FALSE(journal_->Find("", "trimmed")->has_value());
  const auto erased = journal_->Insert("", "erased", Request(3), 102);
  ASSERT_TRUE(journal_->Erase("", "erased").ok());
  const auto young = journal_->Insert("", "young", Request(4), 103);
  ASSERT_TRUE(young.ok());
  std::vector<JournalBatch> batches = {Batch(*trimmed, 0, 3), Batch(*erased, 0, 3)};
  EXPECT_TRUE(journal_->Append(batches, 104).ok());
  EXPECT_TRUE((*journal_->Find("", "young"))->tokens.empty());
  batches = {Batch(*young, 0, 2)};
  EXPECT_TRUE(journal_->Append(batches, 105).ok());
  EXPECT_EQ((*journal_->Find("", "young"))->tokens.size(), 2u);
  ASSERT_TRUE(Open().ok());
  const auto next = journal_->Insert("", "next", Request(5), 106);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT(*next, *young);
}

TEST_F(JournalTest, AFullFileTakesNoMoreUntilSomethingIsForgotten) {
  ASSERT_TRUE(Open(64 << 10).ok());
  const auto old = journal_->Insert("", "old", Request(1), 100);
  const auto young = journal_->Insert("", "young", Request(1), 200);
  std::vector<JournalBatch> batches = {Batch(*old, 0, 5000)};
  ASSERT_TRUE(journal_->Append(batches, 100).ok());
  batches = {Batch(*young, 0, 5000)};
  EXPECT_TRUE(absl::IsResourceExhausted(journal_->Append(batches, 200)));
  ASSERT_TRUE(journal_->Trim(150, 10).ok());
  EXPECT_TRUE(journal_->Append(batches, 200).ok());
  EXPECT_EQ((*journal_->Find("", "young"))->tokens.size(), 5000u);
}

TEST_F(JournalTest, OtherFilesAreRefusedByName) {
  std::ofstream(path_) << std::string(8192, 'x');
  EXPECT_EQ(Open().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(Open().message().find("is no journal"), std::string::npos) << Open();
  Remove();
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  sqlite3_exec(other, "CREATE TABLE t (x)", nullptr, nullptr, nullptr);
  sqlite3_close(other);
  EXPECT_NE(Open().message().find("another program's database"), std::string::npos) << Open();
}

TEST_F(JournalTest, DamageIsFound) {
  ASSERT_TRUE(Open().ok());
  const auto id = journal_->Insert("", "a", Request(1), 100);
  for (uint64_t first = 0; first < 5000; first += 100) {
    const std::vector<JournalBatch> batches = {Batch(*id, first, 100)};
    ASSERT_TRUE(journal_->Append(batches, 100).ok());
  }
  journal_ = nullptr;
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096);
  file << std::string(16384, '\xFF');
  file.close();
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("damaged"), std::string::npos) << status;
}

TEST_F(JournalTest, OneCoordinatorAtATime) {
  ASSERT_TRUE(Open().ok());
  const auto second = Journal::Open(path_, 1 << 20);
  EXPECT_NE(second.status().message().find("another process has it open"), std::string::npos)
      << second.status();
}

}  // namespace
}  // namespace trireme
