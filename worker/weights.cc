#include "worker/weights.h"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<PageMemory> PageMemory::Allocate(size_t bytes) {
  PageMemory memory;
  if (bytes == 0) return memory;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes: ", std::strerror(errno)));
  }
  madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without huge pages it is only slower
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_ = bytes;
  return memory;
}

PageMemory::PageMemory(PageMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PageMemory::~PageMemory() {
  if (data_ != nullptr) munmap(data_, size_);
}

namespace {

constexpr size_t kAlignment = 64;  // a cache line

// Reads all slices, each by one of several threads; returns the first error.
absl::Status ReadSlices(const Checkpoint& checkpoint, const std::vector<TensorSlice>& slices,
                        const std::vector<std::span<std::byte>>& destinations, int threads) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status first_error;
  const auto read = [&] {
    for (size_t i = next++; i < slices.size(); i = next++) {
      const absl::Status status = checkpoint.Read(slices[i], destinations[i]);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      first_error.Update(status);
      return;
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(read);
  read();
  for (std::thread& helper : helpers) helper.join();
  return first_error;
}

}  // namespace

absl::StatusOr<Weights> Weights::Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, int threads) {
  Weights weights;
  std::vector<size_t> offsets;
  std::vector<DType> dtypes;
  size_t size = 0;
  for (const TensorSlice& slice : slices) {
    const TensorInfo* info = checkpoint.Find(slice.name);
    if (info == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint.origin(), ": tensor \"", slice.name,
                       "\" is missing; does config.json belong to this checkpoint?"));
    }
    offsets.push_back(size);
    dtypes.push_back(info->dtype);
    const size_t bytes =
        static_cast<size_t>(slice.rows.size() * DTypeRowBytes(info->dtype, slice.cols.size()));
    weights.bytes_ += bytes;
    size += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  ASSIGN_OR_RETURN(weights.memory_, PageMemory::Allocate(size));
  std::vector<std::span<std::byte>> destinations;
  for (size_t i = 0; i < slices.size(); ++i) {
    const size_t bytes = static_cast<size_t>(slices[i].rows.size() *
                                             DTypeRowBytes(dtypes[i], slices[i].cols.size()));
    destinations.emplace_back(weights.memory_.data() + offsets[i], bytes);
  }
  RETURN_IF_ERROR(ReadSlices(checkpoint, slices, destinations, threads));
  for (size_t i = 0; i < slices.size(); ++i) {
    const int64_t cols = slices[i].cols.size();
    weights.by_name_[slices[i].name] = Weight{.data = weights.memory_.data() + offsets[i],
                                              .dtype = dtypes[i],
                                              .rows = slices[i].rows.size(),
                                              .cols = cols,
                                              .row_stride = cols};
  }
  return weights;
}

absl::StatusOr<Weight> Weights::Find(std::string_view name) const {
  const auto found = by_name_.find(absl::string_view(name.data(), name.size()));
  if (found == by_name_.end()) {
    return absl::InternalError(
        absl::StrCat("weight \"", std::string(name), "\" is not of this shard"));
  }
  return found->second;
}

}  // namespace trireme
