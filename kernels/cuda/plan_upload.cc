#include "kernels/cuda/plan_upload.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/graph_buckets.h"

namespace trireme::cuda {
namespace {

// Whether token t begins a sequence.
bool Begins(const StepBatch& batch, size_t t) {
  if (t == 0) return true;
  const TokenPlace& place = batch.places[t];
  const TokenPlace& before = batch.places[t - 1];
  return place.position == TokenPlace::kPadding ||
         place.block_table.data() != before.block_table.data() ||
         place.position != before.position + 1;
}

template <class T>
std::span<T> Array(std::span<std::byte> to, size_t offset, int64_t size) {
  CHECK(offset + static_cast<size_t>(size) * sizeof(T) <= to.size());
  return {reinterpret_cast<T*>(to.data() + offset), static_cast<size_t>(size)};
}

template <class T>
void CopyTo(std::span<std::byte> to, size_t offset, const std::vector<T>& values) {
  const std::span<T> array = Array<T>(to, offset, static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), array.begin());
}

}  // namespace

PlanShape ShapeOf(const StepBatch& batch) {
  CHECK(batch.ids.size() == batch.places.size());
  PlanShape shape{.tokens = batch.tokens(),
                  .angles = static_cast<int64_t>(batch.rope.cos.size()),
                  .local_angles = !batch.local_rope.cos.empty(),
                  .wanted = static_cast<int64_t>(batch.wanted.size())};
  int64_t blocks = 1;
  int64_t in_sequence = 0;
  for (size_t t = 0; t < batch.places.size(); ++t) {
    if (Begins(batch, t)) {
      ++shape.sequences;
      in_sequence = 0;
    }
    shape.query_max = std::max(shape.query_max, ++in_sequence);
    blocks = std::max(blocks, static_cast<int64_t>(batch.places[t].block_table.size()));
  }
  shape.blocks = GraphBlocks(blocks);
  return shape;
}

PlanLayout::PlanLayout(const PlanShape& shape) {
  static_assert(sizeof(float) == sizeof(int32_t));
  const auto place = [this](int64_t count) {
    constexpr size_t kAlignment = 256;
    const size_t at = bytes;
    bytes +=
        (static_cast<size_t>(count) * sizeof(int32_t) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  };
  ids = place(shape.tokens);
  positions = place(shape.tokens);
  sequence_of_token = place(shape.tokens);
  query_start = place(shape.sequences + 1);
  block_tables = place(shape.sequences * shape.blocks);
  wanted = place(shape.wanted);
  cos = place(shape.angles);
  sin = place(shape.angles);
  local_cos = place(shape.local_angles ? shape.angles : 0);
  local_sin = place(shape.local_angles ? shape.angles : 0);
}

void PackPlan(const StepBatch& batch, const PlanShape& shape, const PlanLayout& layout,
              std::span<std::byte> to) {
  CHECK(to.size() >= layout.bytes && batch.rope.sin.size() == batch.rope.cos.size());
  CopyTo(to, layout.ids, batch.ids);
  CopyTo(to, layout.wanted, batch.wanted);
  CopyTo(to, layout.cos, batch.rope.cos);
  CopyTo(to, layout.sin, batch.rope.sin);
  if (shape.local_angles) {
    CHECK(static_cast<int64_t>(batch.local_rope.cos.size()) == shape.angles &&
          batch.local_rope.sin.size() == batch.local_rope.cos.size());
    CopyTo(to, layout.local_cos, batch.local_rope.cos);
    CopyTo(to, layout.local_sin, batch.local_rope.sin);
  }
  const auto positions = Array<int32_t>(to, layout.positions, shape.tokens);
  const auto sequences = Array<int32_t>(to, layout.sequence_of_token, shape.tokens);
  const auto starts = Array<int32_t>(to, layout.query_start, shape.sequences + 1);
  const auto tables = Array<int32_t>(to, layout.block_tables, shape.sequences * shape.blocks);
  int32_t sequence = -1;
  for (size_t t = 0; t < batch.places.size(); ++t) {
    const TokenPlace& place = batch.places[t];
    if (Begins(batch, t)) {
      starts[static_cast<size_t>(++sequence)] = static_cast<int32_t>(t);
      const std::span<int32_t> table = tables.subspan(static_cast<size_t>(sequence * shape.blocks),
                                                      static_cast<size_t>(shape.blocks));
      const size_t count = std::min(place.block_table.size(), table.size());
      std::fill(std::copy_n(place.block_table.begin(), count, table.begin()), table.end(), 0);
    }
    positions[t] = static_cast<int32_t>(place.position);
    sequences[t] = sequence;
  }
  starts.back() = static_cast<int32_t>(shape.tokens);
}

}  // namespace trireme::cuda
