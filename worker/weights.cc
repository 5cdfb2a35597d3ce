#include "worker/weights.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/quant/fp8.h"
#include "kernels/quant/packed.h"
#include "parallel/weight_types.h"
#include "worker/checkpoint/slice.h"
#include "worker/load_progress.h"
#include "worker/read_ahead.h"

namespace trireme {

namespace {

constexpr size_t kAlignment = 256;  // what vector loads and copies of any device like
// Of one task: small enough that threads end together, large enough to read in long stretches.
constexpr int64_t kTaskBytes = int64_t{1} << 20;

// A slice and its place in a rank's memory.
struct PlacedSlice {
  const TensorSlice* slice = nullptr;
  DType stored = DType::kF32;
  DType dtype = DType::kF32;                  // in memory
  std::optional<quant::PackedLayout> layout;  // of packed weights
  std::byte* data = nullptr;
  std::vector<float> scales;       // of kFp8 in memory: a row's, behind the rows
  ReadAhead::Stretches stretches;  // in the files

  const std::byte* place() const { return stretches.empty() ? nullptr : stretches.front().data(); }

  // Of a row as the checkpoint gives it, with columns widened to whole blocks.
  int64_t stored_row_bytes() const {
    const IndexRange cols = BlockColumns(*slice, stored);
    return DTypeRowBytes(stored, cols.size());
  }
  int64_t stored_bytes() const { return stored_row_bytes() * slice->rows.size(); }
  // Of a row in memory, if it is not packed.
  int64_t row_bytes() const {
    const int64_t cols = slice->cols.size();
    return dtype == DType::kFp8 ? cols : cols * DTypeBlock(dtype).block_bytes;
  }
  int64_t bytes() const {
    if (layout) return layout->bytes();
    return slice->rows.size() * row_bytes() + static_cast<int64_t>(scales.size() * sizeof(float));
  }
};

absl::StatusOr<PlacedSlice> Place(const Checkpoint& checkpoint, const TensorSlice& slice,
                                  const Ops& ops, bool float32) {
  const TensorInfo* info = checkpoint.Find(slice.name);
  if (info == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.origin(), ": tensor \"", slice.name,
                     "\" is missing; does the configuration belong to this checkpoint?"));
  }
  PlacedSlice placed{.slice = &slice,
                     .stored = info->dtype,
                     .dtype = info->dtype,
                     .layout = {},
                     .data = nullptr,
                     .scales = {},
                     .stretches = checkpoint.Stretches(slice)};
  if (info->dtype == DType::kFp8) {
    const bool keeps = !float32 && ops.MultipliesFp8() && FitsFp8Products(slice);
    placed.dtype = keeps ? DType::kFp8 : DType::kBF16;
    if (placed.dtype == DType::kFp8) placed.scales.resize(static_cast<size_t>(slice.rows.size()));
  }
  if (float32 && !IsQuantized(info->dtype)) placed.dtype = DType::kF32;
  if (slice.is_vector || !ops.Packs(placed.dtype)) return placed;
  if (!IsQuantized(info->dtype)) {
    placed.layout.emplace(placed.dtype, slice.rows.size(), slice.cols.size(), 0);
    return placed;
  }
  if (slice.cols.begin % quant::kBlockColumns != 0 || slice.cols.end % quant::kBlockColumns != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported: tensor parallelism would cut tensor \"", slice.name, "\" of ",
                     checkpoint.origin(), ", of type ", std::string(DTypeName(info->dtype)),
                     " and with ", slice.full_cols, " columns, inside a block of ",
                     quant::kBlockColumns, "; use a smaller --tp"));
  }
  const int64_t before = slice.cols.begin % DTypeBlock(info->dtype).block_elements;
  placed.layout.emplace(info->dtype, slice.rows.size(), slice.cols.size(),
                        before / quant::kBlockColumns);
  return placed;
}

// Rows [first, first + rows) of a slice. Those of packed weights begin a panel.
struct Task {
  PlacedSlice* placed = nullptr;
  int64_t first = 0;
  int64_t rows = 0;

  // What they take in memory, from offset() of the slice on.
  int64_t offset() const { return BytesBefore(first); }
  int64_t bytes() const { return BytesBefore(first + rows) - offset(); }

 private:
  int64_t BytesBefore(int64_t row) const {
    if (placed->layout) {
      return (row + quant::kPanelRows - 1) / quant::kPanelRows * placed->layout->panel_bytes;
    }
    return placed->row_bytes() * row;
  }
};

// Rows of kFp8, in blocks from the first that has columns of the slice, as bfloat16.
std::vector<std::byte> WidenFp8(const TensorSlice& slice, const std::vector<std::byte>& stored,
                                int64_t rows) {
  const int64_t blocks = BlockColumns(slice, DType::kFp8).size() / quant::kFp8BlockColumns;
  const int64_t before = slice.cols.begin % quant::kFp8BlockColumns;
  const int64_t cols = slice.cols.size();
  std::vector<std::byte> quants(static_cast<size_t>(blocks * quant::kFp8BlockColumns));
  std::vector<std::byte> halves(static_cast<size_t>(rows * cols) * sizeof(uint16_t));
  std::byte* to = halves.data();
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* from = stored.data() + row * blocks * quant::kFp8BlockBytes;
    const float scale = quant::SplitFp8Row(from, blocks, quants.data());
    std::array<uint16_t, 256> values;  // that a row may have
    for (size_t bits = 0; bits < values.size(); ++bits) {
      values[bits] = RoundToBf16(quant::FromE4m3(static_cast<uint8_t>(bits)) * scale);
    }
    for (int64_t col = before; col < before + cols; ++col, to += sizeof(uint16_t)) {
      const auto bits = static_cast<size_t>(quants[static_cast<size_t>(col)]);
      std::memcpy(to, &values[bits], sizeof(uint16_t));
    }
  }
  return halves;
}

// From the checkpoint to `to`, as they are to lie in memory.
absl::Status LoadRows(const Checkpoint& checkpoint, const Task& task, std::byte* to) {
  PlacedSlice& placed = *task.placed;
  const bool fp8 = placed.stored == DType::kFp8;
  const int64_t row_bytes = placed.stored_row_bytes();
  const int64_t first = task.first;
  const int64_t rows = task.rows;
  if (!fp8 && !placed.layout && placed.stored == placed.dtype) {
    return checkpoint.ReadBlocks(*placed.slice, first, rows,
                                 {to, static_cast<size_t>(rows * row_bytes)});
  }
  std::vector<std::byte> stored(static_cast<size_t>(quant::kPanelRows * row_bytes));
  for (int64_t row = first; row < first + rows; row += quant::kPanelRows) {
    const int64_t count = std::min<int64_t>(quant::kPanelRows, first + rows - row);
    RETURN_IF_ERROR(
        checkpoint.ReadBlocks(*placed.slice, row, count,
                              std::span(stored).first(static_cast<size_t>(count * row_bytes))));
    std::byte* const own = placed.layout ? nullptr : to + (row - first) * placed.row_bytes();
    if (placed.dtype == DType::kFp8) {
      for (int64_t i = 0; i < count; ++i) {
        placed.scales[static_cast<size_t>(row + i)] = quant::SplitFp8Row(
            stored.data() + i * row_bytes, placed.row_bytes() / quant::kFp8BlockColumns,
            own + i * placed.row_bytes());
      }
      continue;
    }
    const std::vector<std::byte> widened =
        fp8 ? WidenFp8(*placed.slice, stored, count) : std::vector<std::byte>();
    const std::vector<std::byte>& values = fp8 ? widened : stored;
    if (!placed.layout && placed.dtype == DType::kBF16) {  // of fp8
      std::memcpy(own, values.data(), static_cast<size_t>(count * placed.row_bytes()));
      continue;
    }
    if (!placed.layout) {
      const Weight halves{.data = values.data(),
                          .dtype = fp8 ? DType::kBF16 : placed.stored,
                          .rows = count,
                          .cols = placed.slice->cols.size(),
                          .row_stride = placed.slice->cols.size()};
      const std::vector<float> floats = ToFloats(halves);
      std::memcpy(own, floats.data(), floats.size() * sizeof(float));
      continue;
    }
    quant::PackPanel(placed.dtype, *placed.layout, row / quant::kPanelRows, values.data(),
                     fp8 ? placed.row_bytes() : row_bytes,
                     to + (row - first) / quant::kPanelRows * placed.layout->panel_bytes);
  }
  return absl::OkStatus();
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
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const Task& task = tasks[i];
      read_ahead.Begin(static_cast<size_t>(task.placed - slices.data()));
      ASSIGN_OR_RETURN(std::byte* const to, writer->Begin(task.placed->data + task.offset(),
                                                          static_cast<size_t>(task.bytes())));
      RETURN_IF_ERROR(LoadRows(checkpoint, task, to));
      RETURN_IF_ERROR(writer->End());
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

}  // namespace

absl::StatusOr<Weights> Weights::Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, Ops& ops, int threads,
                                      bool float32, LoadCount* count) {
  Weights weights;
  LoadCount uncounted;
  weights.ops_ = &ops;
  std::vector<PlacedSlice> placed;
  size_t size = 0;
  for (const TensorSlice& slice : slices) {
    ASSIGN_OR_RETURN(PlacedSlice own, Place(checkpoint, slice, ops, float32));
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
  }
  std::stable_sort(placed.begin(), placed.end(), [](const PlacedSlice& a, const PlacedSlice& b) {
    return std::less<>()(a.place(), b.place());
  });
  RETURN_IF_ERROR(
      LoadSlices(checkpoint, placed, ops.memory(), threads, count == nullptr ? uncounted : *count));
  for (const PlacedSlice& own : placed) {
    if (own.scales.empty()) continue;
    RETURN_IF_ERROR(ops.memory().CopyIn(own.data + own.slice->rows.size() * own.row_bytes(),
                                        std::as_bytes(std::span(own.scales))));
  }
  for (const PlacedSlice& own : placed) {
    const int64_t cols = own.slice->cols.size();
    weights.by_name_[own.slice->name] =
        Weight{.data = own.data,
               .dtype = own.dtype,
               .rows = own.slice->rows.size(),
               .cols = cols,
               .row_stride = cols,
               .packed = own.layout.has_value(),
               .block_offset = own.layout ? own.layout->block_offset : 0};
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
