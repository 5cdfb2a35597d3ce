#include "worker/weights.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/placed_slice.h"

namespace trireme {

namespace {

constexpr size_t kAlignment = 256;  // what vector loads and copies of any device like
// Of one task: small enough that threads end together, large enough to read in long stretches.
constexpr int64_t kTaskBytes = int64_t{1} << 20;

// Rows [first, first + rows) of a slice. Those of packed weights begin a panel.
struct Task {
  PlacedSlice* placed = nullptr;
  int64_t first = 0;
  int64_t rows = 0;

  // What they take in memory, from offset() of the slice on.
  int64_t offset() const { return placed->bytes_before(first); }
  int64_t bytes() const { return placed->bytes_before(first + rows) - offset(); }
};

// The shard is to be in memory once, not also as pages of the files that it came from. But for rows
// that lie among those of other tasks.
void Release(const Checkpoint& checkpoint, const Task& task) {
  TensorSlice slice = *task.placed->slice;
  slice.rows = {.begin = slice.rows.begin + task.first,
                .end = slice.rows.begin + task.first + task.rows};
  const ReadAhead::Stretches stretches = checkpoint.Stretches(slice);
  size_t bytes = 0;
  for (const auto& stretch : stretches) bytes += stretch.size();
  if (bytes > 2 * static_cast<size_t>(task.rows * task.placed->stored_row_bytes())) return;
  for (const auto& stretch : stretches) DoneWith(stretch);
}

// Loads all slices, in their order, with several threads; returns the first error.
absl::Status LoadSlices(const Checkpoint& checkpoint, std::vector<PlacedSlice>& slices,
                        Memory& memory, int threads, LoadCount& count) {
  std::vector<Task> tasks;
  uint64_t stored_bytes = 0;
  std::vector<ReadAhead::Stretches> stretches;
  for (PlacedSlice& placed : slices) {
    stretches.push_back(std::move(placed.stretches));
    stored_bytes += static_cast<uint64_t>(placed.stored_bytes());
    const int64_t rows = placed.slice->rows.size();
    const int64_t panels =
        std::max<int64_t>(1, kTaskBytes / (quant::kPanelRows * placed.stored_row_bytes()));
    const int64_t each = panels * quant::kPanelRows;
    for (int64_t first = 0; first < rows; first += each) {
      tasks.push_back({&placed, first, std::min(each, rows - first)});
    }
  }
  count.total = stored_bytes;
  const LoadProgress progress(count);
  ReadAhead read_ahead(std::move(stretches));
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status first_error;
  const auto load_tasks = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<MemoryWriter> writer, memory.MakeWriter());
    std::vector<std::byte> room;
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const Task& task = tasks[i];
      if (const auto bytes = static_cast<size_t>(task.placed->room_bytes()); room.size() < bytes) {
        room.resize(bytes);
      }
      read_ahead.Begin(static_cast<size_t>(task.placed - slices.data()));
      ASSIGN_OR_RETURN(std::byte* const to, writer->Begin(task.placed->data + task.offset(),
                                                          static_cast<size_t>(task.bytes())));
      RETURN_IF_ERROR(ReadRows(checkpoint, *task.placed, task.first, task.rows, room, to));
      RETURN_IF_ERROR(writer->End());
      Release(checkpoint, task);
      count.done += static_cast<uint64_t>(task.rows * task.placed->stored_row_bytes());
    }
    return writer->Finish();
  };
  const auto load = [&] {
    const absl::Status status = load_tasks();
    const std::lock_guard lock(mutex);
    first_error.Update(status);
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(load);
  load();
  for (std::thread& helper : helpers) helper.join();
  return first_error;
}

Weight InMemory(const PlacedSlice& placed) {
  const int64_t cols = placed.slice->cols.size();
  return {.data = placed.data,
          .dtype = placed.dtype,
          .rows = placed.slice->rows.size(),
          .cols = cols,
          .row_stride = cols,
          .packed = placed.layout.has_value(),
          .block_offset = placed.layout ? placed.layout->block_offset : 0};
}

}  // namespace

absl::StatusOr<Weights> Weights::Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, Ops& ops,
                                      const LoadOptions& options) {
  Weights weights;
  LoadCount uncounted;
  weights.ops_ = &ops;
  std::vector<PlacedSlice> placed;
  size_t size = 0;
  for (const TensorSlice& slice : slices) {
    ASSIGN_OR_RETURN(PlacedSlice own, Place(checkpoint, slice, ops, options.float32));
    const size_t bytes = static_cast<size_t>(own.bytes());
    weights.bytes_ += bytes;
    size += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    placed.push_back(std::move(own));
  }
  ASSIGN_OR_RETURN(weights.memory_, ops.memory().Allocate(size));
  std::byte* data = weights.memory_.data();
  for (PlacedSlice& own : placed) {
    own.data = data;
    data += (static_cast<size_t>(own.bytes()) + kAlignment - 1) / kAlignment * kAlignment;
    weights.by_name_[own.slice->name] = InMemory(own);
  }
  std::stable_sort(placed.begin(), placed.end(), [](const PlacedSlice& a, const PlacedSlice& b) {
    return std::less<>()(a.place(), b.place());
  });
  if (options.mapped && ops.memory().on_host()) {
    RETURN_IF_ERROR(weights.Map(checkpoint, placed));
  }
  RETURN_IF_ERROR(LoadSlices(checkpoint, placed, ops.memory(), options.threads,
                             options.count == nullptr ? uncounted : *options.count));
  for (const PlacedSlice& own : placed) {
    if (own.scales.empty()) continue;
    RETURN_IF_ERROR(ops.memory().CopyIn(own.data + own.slice->rows.size() * own.row_bytes(),
                                        std::as_bytes(std::span(own.scales))));
  }
  return weights;
}

absl::Status Weights::Map(const Checkpoint& checkpoint, std::vector<PlacedSlice>& placed) {
  ReadAhead::Stretches wanted;
  for (const PlacedSlice& own : placed) {
    wanted.insert(wanted.end(), own.stretches.begin(), own.stretches.end());
  }
  if (!InFileCache(wanted)) return absl::OkStatus();
  std::vector<PlacedSlice> others;
  for (PlacedSlice& own : placed) {
    if (!MappedPanels::Fits(own)) {
      others.push_back(std::move(own));
      continue;
    }
    Weight& weight = by_name_[own.slice->name];
    ASSIGN_OR_RETURN(auto panels, MappedPanels::Make(checkpoint, std::move(own)));
    weight.panels = mapped_.emplace_back(std::move(panels)).get();
  }
  placed = std::move(others);
  return absl::OkStatus();
}

int64_t Weights::bytes_to_come() const {
  int64_t bytes = 0;
  for (const auto& panels : mapped_) bytes += panels->bytes_to_come();
  return bytes;
}

absl::StatusOr<Weight> Weights::Find(std::string_view name) const {
  const auto found = by_name_.find(absl::string_view(name.data(), name.size()));
  if (found == by_name_.end()) {
    return absl::InternalError(
        absl::StrCat("weight \"", std::string(name), "\" is not of this shard"));
  }
  return found->second;
}

absl::StatusOr<std::vector<float>> Weights::Floats(std::string_view name) const {
  ASSIGN_OR_RETURN(Weight weight, Find(name));
  std::vector<std::byte> room;
  const size_t bytes = static_cast<size_t>(DTypeRowBytes(weight.dtype, weight.cols) * weight.rows);
  CHECK(!weight.packed);
  ASSIGN_OR_RETURN(
      const std::span<const std::byte> values,
      ops_->memory().Read(std::span(static_cast<const std::byte*>(weight.data), bytes), room));
  weight.data = values.data();
  return ToFloats(weight);
}

}  // namespace trireme
