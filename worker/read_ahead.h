#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace trireme {

// What has been read of mapped files and will not be again: its whole pages leave this process's
// memory, and stay in the file cache.
void DoneWith(std::span<const std::byte> bytes);

// Whether the file cache has nearly all of these stretches of mapped files: reads samples of them,
// until too many had to come from a disk. (mincore says of others' files that they are there.)
bool InFileCache(const std::vector<std::span<const std::byte>>& stretches);

// Reads what will be used of mapped files into the page cache, some way ahead of its use: in the
// order given and in large requests, many at once, where page faults would wait for small ones, one
// by one. A hint: nothing depends on its success.
class ReadAhead {
 public:
  using Stretches = std::vector<std::span<const std::byte>>;

  // The stretches of each item, in the order in which the items will be used. The files must
  // outlive this.
  explicit ReadAhead(std::vector<Stretches> items);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // This item is now in use: it and the next are read, but not all. Any thread.
  void Begin(size_t item);

 private:
  void Run();
  bool WaitUntilWanted(size_t item);

  const std::vector<Stretches> items_;
  std::vector<size_t> ends_;  // of each item, in bytes of them all
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t current_ = 0;  // the item in use; guarded by mutex_
  bool ended_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace trireme
