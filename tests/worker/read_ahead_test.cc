#include "worker/read_ahead.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace trireme {
namespace {

class ReadAheadTest : public testing::Test {
 protected:
  static constexpr size_t kBytes = size_t{4} << 20;

  // A file that is not in the page cache, as far as the file system has one.
  void SetUp() override {
    path_ = std::filesystem::path(testing::TempDir()) / absl::StrCat("read_ahead_test_", getpid());
    std::ofstream(path_) << std::string(kBytes, 'x');
    const int fd = open(path_.c_str(), O_RDWR);
    ASSERT_EQ(fsync(fd), 0);
    ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
    file_.emplace(*MappedFile::Open(path_));
  }
  void TearDown() override { std::filesystem::remove(path_); }

  bool Cached(size_t begin, size_t end) const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> resident(kBytes / page);
    EXPECT_EQ(mincore(const_cast<std::byte*>(file_->bytes().data()), kBytes, resident.data()), 0);
    for (size_t i = begin / page; i < end / page; ++i) {
      if ((resident[i] & 1) == 0) return false;
    }
    return true;
  }

  std::filesystem::path path_;
  std::optional<MappedFile> file_;
};

TEST_F(ReadAheadTest, TellsWhatTheFileCacheHas) {
  const std::span<const std::byte> bytes = file_->bytes();
  if (Cached(0, kBytes)) GTEST_SKIP() << "this file system keeps what is dropped";
  EXPECT_FALSE(InFileCache({bytes}));
  const ReadAhead reads({{bytes}});
  for (int i = 0; i < 500 && !Cached(0, kBytes); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(InFileCache({bytes}));
  EXPECT_TRUE(InFileCache({bytes.first(100), bytes.subspan(100)}));
  EXPECT_TRUE(InFileCache({}));
}

TEST_F(ReadAheadTest, BringsTheNextItemsIntoTheCache) {
  const auto bytes = file_->bytes();
  ReadAhead read_ahead({{bytes.first(kBytes / 4)}, {}, {bytes.subspan(kBytes / 2)}});
  for (int i = 0; i < 1000 && !Cached(kBytes / 2, kBytes); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(Cached(0, kBytes / 4));
  EXPECT_TRUE(Cached(kBytes / 2, kBytes));
}

TEST_F(ReadAheadTest, EndsBeforeItHasReadAll) {
  const auto bytes = file_->bytes();
  // Far more than it reads ahead.
  ReadAhead read_ahead(std::vector<ReadAhead::Stretches>(1000, {bytes}));
  read_ahead.Begin(500);
  read_ahead.Begin(3);
}

TEST_F(ReadAheadTest, OfNothing) { ReadAhead read_ahead({}); }

}  // namespace
}  // namespace trireme
