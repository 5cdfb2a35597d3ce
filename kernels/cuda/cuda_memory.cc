#include "kernels/cuda/cuda_memory.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace trireme::cuda {
namespace {

// Of a wait for one of two things, while the device has work: it does not feel the pause.
constexpr std::chrono::microseconds kPollPause{20};

// Two pieces of page-locked memory: one is written while the other is on its way.
class PinnedWriter final : public MemoryWriter {
 public:
  static absl::StatusOr<std::unique_ptr<MemoryWriter>> Create() {
    auto writer = std::make_unique<PinnedWriter>();
    ASSIGN_OR_RETURN(writer->stream_, Stream::Create());
    for (Piece& piece : writer->pieces_) {
      ASSIGN_OR_RETURN(piece.sent, Event::Create());
    }
    return writer;
  }

  absl::StatusOr<std::byte*> Begin(std::byte* to, size_t bytes) override {
    turn_ = 1 - turn_;
    Piece& piece = pieces_[turn_];
    RETURN_IF_ERROR(piece.sent.Synchronize());
    const auto size = static_cast<int64_t>(bytes);
    if (piece.memory.bytes() < size) {
      ASSIGN_OR_RETURN(piece.memory,
                       PinnedMemory::Allocate(std::max(size, kPieceBytes), {"loading weights"}));
    }
    std::memset(piece.memory.data(), 0, bytes);
    piece.to = to;
    piece.bytes = size;
    return piece.memory.data();
  }

  absl::Status End() override {
    const Piece& piece = pieces_[turn_];
    RETURN_IF_ERROR(stream_.Copy(piece.to, piece.memory.data(), piece.bytes));
    return piece.sent.Record(stream_.get());
  }

  absl::Status Finish() override { return stream_.Synchronize(); }

 private:
  static constexpr int64_t kPieceBytes = int64_t{2} << 20;
  struct Piece {
    PinnedMemory memory;
    Event sent;
    std::byte* to = nullptr;
    int64_t bytes = 0;
  };
  Stream stream_;
  std::array<Piece, 2> pieces_;
  size_t turn_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaMemory>> CudaMemory::Create(int device) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  std::unique_ptr<CudaMemory> memory(new CudaMemory(device));
  ASSIGN_OR_RETURN(memory->stream_, Stream::Create());
  ASSIGN_OR_RETURN(memory->drained_, Event::Create());
  for (Event& mark : memory->marks_) {
    ASSIGN_OR_RETURN(mark, Event::Create());
  }
  return memory;
}

absl::Status CudaMemory::Await(const Event& event) const {
  if (!wait_) return event.Synchronize();
  return wait_([&event] { return event.Done(); });
}

absl::Status CudaMemory::Drain() {
  RETURN_IF_ERROR(drained_.Record(stream_.get()));
  return Await(drained_);
}

absl::Status CudaMemory::Errors() const {
  RETURN_IF_ERROR(LaunchStatus("a step's kernels"));
  return error_;
}

absl::StatusOr<uint64_t> CudaMemory::Mark() {
  ++marked_;
  RETURN_IF_ERROR(marks_[marked_ % marks_.size()].Record(stream_.get()));
  return marked_;
}

absl::StatusOr<bool> CudaMemory::Reach(uint64_t mark, const std::function<bool()>& instead) {
  CHECK(mark <= marked_ && marked_ - mark < marks_.size());
  const Event& event = marks_[mark % marks_.size()];
  bool reached = false;
  const auto either = [&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(reached, event.Done());
    return reached || (instead && instead());
  };
  if (wait_) {
    RETURN_IF_ERROR(wait_(either));
  } else if (!instead) {
    RETURN_IF_ERROR(event.Synchronize());
    reached = true;
  } else {
    while (true) {
      ASSIGN_OR_RETURN(const bool done, either());
      if (done) break;
      std::this_thread::sleep_for(kPollPause);
    }
  }
  if (!reached) return false;
  RETURN_IF_ERROR(Errors());
  return true;
}

absl::StatusOr<int64_t> CudaMemory::Available() const {
  ASSIGN_OR_RETURN(const MemoryInfo info, DeviceMemoryInfo());
  return info.free_bytes;
}

absl::StatusOr<Buffer> CudaMemory::Allocate(size_t bytes) {
  if (bytes == 0) return Buffer();
  ASSIGN_OR_RETURN(DeviceMemory made,
                   DeviceMemory::Allocate(static_cast<int64_t>(bytes),
                                          {"weights, KV cache and activations", "--kv-memory"}));
  std::byte* const data = made.data();
  RETURN_IF_ERROR(Zero(data, bytes));
  // Writers have streams of their own.
  RETURN_IF_ERROR(Drain());
  allocations_[data] = std::move(made);
  return Buffer(this, data, bytes);
}

void CudaMemory::Free(std::byte* data, size_t) {
  on_free_();
  Note(Drain());  // work that is under way may use it
  allocations_.erase(data);
}

// Copies come after all that may wait for other ranks: a wait that was given up would leave them
// the caller's memory, which he may free.
absl::Status CudaMemory::CopyIn(void* to, std::span<const std::byte> from) {
  if (from.empty()) return absl::OkStatus();
  if (wait_) RETURN_IF_ERROR(Drain());
  RETURN_IF_ERROR(stream_.Copy(to, from.data(), static_cast<int64_t>(from.size())));
  return stream_.Synchronize();
}

absl::Status CudaMemory::CopyOut(std::span<std::byte> to, const void* from) {
  if (wait_) RETURN_IF_ERROR(Drain());
  if (!to.empty()) {
    RETURN_IF_ERROR(stream_.Copy(to.data(), from, static_cast<int64_t>(to.size())));
  }
  RETURN_IF_ERROR(stream_.Synchronize());
  return Errors();
}

absl::Status CudaMemory::Copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return stream_.Copy(to, from, static_cast<int64_t>(bytes));
}

absl::Status CudaMemory::Zero(void* to, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return stream_.Fill(to, 0, static_cast<int64_t>(bytes));
}

absl::StatusOr<std::unique_ptr<MemoryWriter>> CudaMemory::MakeWriter() {
  // A thread of the caller's, whose current device may be another.
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
  return PinnedWriter::Create();
}

}  // namespace trireme::cuda
