#include "worker/load_broadcast.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "trireme/v1/loading.pb.h"
#include "worker/checkpoint/slice.h"
#include "worker/read_ahead.h"

namespace trireme {
namespace {

constexpr size_t kPiecesHeld = 2;
constexpr uint64_t kMessageBytesMax = uint64_t{64} << 20;

// Before each message, the receiver says that it has room for it, or that it takes no more.
enum class Credit : uint8_t { kGo = 1, kStop = 2 };

// Before each message's bytes.
struct Header {
  uint64_t bytes = 0;
  uint64_t failed = 0;  // 1: they are the text of an error, and the last
};

// Rows of a slice that are sent in one message.
struct Piece {
  const TensorSlice* slice = nullptr;
  int64_t first = 0;
  int64_t rows = 0;
  int64_t bytes = 0;
};

// A slice's, in order.
std::vector<Piece> CutIntoPieces(const TensorSlice& slice, const TensorInfo& info,
                                 int64_t piece_bytes) {
  const int64_t row_bytes = DTypeRowBytes(info.dtype, BlockColumns(slice, info.dtype).size());
  const int64_t each = std::max<int64_t>(1, piece_bytes / std::max<int64_t>(1, row_bytes));
  std::vector<Piece> pieces;
  for (int64_t first = 0; first < slice.rows.size(); first += each) {
    const int64_t rows = std::min(each, slice.rows.size() - first);
    pieces.push_back({.slice = &slice, .first = first, .rows = rows, .bytes = rows * row_bytes});
  }
  return pieces;
}

// Sends the other ranks what is theirs, on a thread of its own, which alone uses `world`.
class SliceSender {
 public:
  SliceSender(const absl::StatusOr<std::unique_ptr<Checkpoint>>& checkpoint,
              const std::vector<std::vector<TensorSlice>>& slices, Communicator& world,
              int64_t piece_bytes)
      : status_(checkpoint.status()),
        checkpoint_(checkpoint.ok() ? checkpoint->get() : nullptr),
        slices_(slices),
        world_(world),
        piece_bytes_(piece_bytes),
        messages_left_(slices.size(), 1),
        thread_([this] { Run(); }) {}

  // If rank 0's own load has failed, the other ranks are told so. Waits until all is sent.
  absl::Status Finish(const absl::Status& own) {
    if (!own.ok()) own_failed_ = true;
    thread_.join();
    return own.ok() ? status_ : own;
  }

 private:
  struct Sending {
    Piece piece;
    int rank = 0;
  };

  void Run() {
    if (status_.ok()) status_ = SendAll();
    if (status_.ok()) return;
    for (int rank = 1; rank < world_.size(); ++rank) {
      // One that is gone does not keep the others from hearing of it.
      if (messages_left_[static_cast<size_t>(rank)] == 0) continue;
      Send(rank, std::as_bytes(std::span(status_.message())), /*failed=*/true).IgnoreError();
    }
  }

  absl::Status SendAll() {
    ASSIGN_OR_RETURN(const auto by_tensor, SlicesByTensor());
    std::vector<v1::TensorTable> tables(slices_.size());
    std::vector<Sending> sendings;
    std::vector<ReadAhead::Stretches> stretches;
    for (const auto& slices_of_tensor : by_tensor) AddTensor(slices_of_tensor, tables, sendings);
    for (const Sending& sending : sendings) {
      ++messages_left_[static_cast<size_t>(sending.rank)];
      const TensorSlice& slice = *sending.piece.slice;
      stretches.push_back(sending.piece.first == 0 ? checkpoint_->Stretches(slice)
                                                   : ReadAhead::Stretches());
    }
    for (int rank = 1; rank < world_.size(); ++rank) {
      v1::TensorTable& table = tables[static_cast<size_t>(rank)];
      table.set_origin(checkpoint_->origin());
      const std::string text = table.SerializeAsString();
      RETURN_IF_ERROR(Send(rank, std::as_bytes(std::span(text)), /*failed=*/false));
    }
    ReadAhead read_ahead(std::move(stretches));
    std::vector<std::byte> room;
    for (size_t i = 0; i < sendings.size(); ++i) {
      if (own_failed_) return absl::AbortedError("rank 0 could not load its own weights");
      const Piece& piece = sendings[i].piece;
      read_ahead.Begin(i);
      room.resize(static_cast<size_t>(piece.bytes));
      RETURN_IF_ERROR(checkpoint_->ReadBlocks(*piece.slice, piece.first, piece.rows, room));
      RETURN_IF_ERROR(Send(sendings[i].rank, room, /*failed=*/false));
    }
    return absl::OkStatus();
  }

  struct RankSlice {
    int rank = 0;
    const TensorSlice* slice = nullptr;
  };

  // The other ranks' slices, by tensor in the files' order.
  absl::StatusOr<std::vector<std::vector<RankSlice>>> SlicesByTensor() const {
    std::map<std::string, std::vector<RankSlice>> by_name;
    for (int rank = 1; rank < world_.size(); ++rank) {
      for (const TensorSlice& slice : slices_[static_cast<size_t>(rank)]) {
        if (checkpoint_->Find(slice.name) == nullptr) {
          return absl::InvalidArgumentError(
              absl::StrCat(checkpoint_->origin(), ": tensor ", Quoted(slice.name),
                           " is missing; does the configuration belong to this checkpoint?"));
        }
        by_name[slice.name].push_back({.rank = rank, .slice = &slice});
      }
    }
    std::vector<std::pair<const std::byte*, std::vector<RankSlice>>> placed;
    for (auto& [name, slices] : by_name) {
      const std::byte* place = nullptr;
      for (const RankSlice& own : slices) {
        const auto stretches = checkpoint_->Stretches(*own.slice);
        if (stretches.empty()) continue;
        const std::byte* begin = stretches.front().data();
        if (place == nullptr || std::less<>()(begin, place)) place = begin;
      }
      placed.emplace_back(place, std::move(slices));
    }
    std::stable_sort(placed.begin(), placed.end(),
                     [](const auto& a, const auto& b) { return std::less<>()(a.first, b.first); });
    std::vector<std::vector<RankSlice>> in_order;
    for (auto& [place, slices] : placed) in_order.push_back(std::move(slices));
    return in_order;
  }

  // Ranks take turns, so that one packs while another receives.
  void AddTensor(const std::vector<RankSlice>& slices, std::vector<v1::TensorTable>& tables,
                 std::vector<Sending>& sendings) const {
    const TensorInfo& info = *checkpoint_->Find(slices.front().slice->name);
    std::vector<std::vector<Piece>> pieces;
    size_t most = 0;
    for (const RankSlice& own : slices) {
      v1::StoredTensor& tensor = *tables[static_cast<size_t>(own.rank)].add_tensors();
      tensor.set_name(own.slice->name);
      tensor.set_dtype(static_cast<uint32_t>(info.dtype));
      tensor.set_stored_type(info.stored_type);
      tensor.mutable_shape()->Assign(info.shape.begin(), info.shape.end());
      pieces.push_back(CutIntoPieces(*own.slice, info, piece_bytes_));
      most = std::max(most, pieces.back().size());
    }
    for (size_t turn = 0; turn < most; ++turn) {
      for (size_t i = 0; i < slices.size(); ++i) {
        if (turn < pieces[i].size()) sendings.push_back({pieces[i][turn], slices[i].rank});
      }
    }
  }

  absl::Status Send(int rank, std::span<const std::byte> bytes, bool failed) {
    uint32_t& left = messages_left_[static_cast<size_t>(rank)];
    left = failed ? 0 : left - 1;
    Credit credit{};
    RETURN_IF_ERROR(world_.Take(std::as_writable_bytes(std::span(&credit, 1)), rank));
    if (credit != Credit::kGo) {
      left = 0;
      return absl::AbortedError(absl::StrCat("rank ", rank, " could not load its weights"));
    }
    Header header{.bytes = bytes.size(), .failed = failed ? uint64_t{1} : 0};
    RETURN_IF_ERROR(world_.Send(std::as_bytes(std::span(&header, 1)), rank));
    return bytes.empty() ? absl::OkStatus() : world_.Send(bytes, rank);
  }

  absl::Status status_;
  const Checkpoint* const checkpoint_;
  const std::vector<std::vector<TensorSlice>>& slices_;
  Communicator& world_;
  const int64_t piece_bytes_;
  std::vector<uint32_t> messages_left_;  // that each rank waits for: the table and its pieces
  std::atomic<bool> own_failed_{false};
  std::thread thread_;
};

// Says whether this rank goes on, and if so returns rank 0's next message.
absl::StatusOr<std::vector<std::byte>> Receive(Communicator& world, std::optional<int64_t> size) {
  const Credit credit = Credit::kGo;
  RETURN_IF_ERROR(world.Post(std::as_bytes(std::span(&credit, 1)), 0));
  Header header;
  RETURN_IF_ERROR(world.Recv(std::as_writable_bytes(std::span(&header, 1)), 0));
  const bool wrong =
      header.failed == 0 && size.has_value() && header.bytes != static_cast<uint64_t>(*size);
  if (wrong || header.bytes > std::max<uint64_t>(kMessageBytesMax, size.value_or(0))) {
    return absl::InternalError(absl::StrCat(
        "rank 0 sends ", header.bytes, " bytes of weights where ", size.value_or(0), " are due"));
  }
  std::vector<std::byte> bytes(header.bytes);
  if (!bytes.empty()) RETURN_IF_ERROR(world.Recv(bytes, 0));
  if (header.failed == 0) return bytes;
  return absl::AbortedError(absl::StrCat(
      "rank 0: ", std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
}

absl::Status TakeNoMore(Communicator& world) {
  const Credit credit = Credit::kStop;
  return world.Post(std::as_bytes(std::span(&credit, 1)), 0);
}

// What rank 0 sends, in the order in which it comes: each row is to be read once, and by any
// thread, as long as some thread reads the earliest.
class ReceivedSlices final : public Checkpoint {
 public:
  // `slices` in the order of the table; they outlive this.
  ReceivedSlices(const v1::TensorTable& table, const std::vector<TensorSlice>& slices,
                 Communicator& world, int64_t piece_bytes)
      : origin_(table.origin()), world_(world) {
    for (const v1::StoredTensor& tensor : table.tensors()) {
      tensors_[tensor.name()] = {.dtype = static_cast<DType>(tensor.dtype()),
                                 .stored_type = tensor.stored_type(),
                                 .shape = {tensor.shape().begin(), tensor.shape().end()}};
    }
    for (const TensorSlice& slice : slices) {
      for (const Piece& piece : CutIntoPieces(slice, *Find(slice.name), piece_bytes)) {
        coming_.push_back(piece);
      }
    }
    thread_ = std::thread([this] { Run(); });
  }

  ~ReceivedSlices() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  const std::string& origin() const override { return origin_; }

  const TensorInfo* Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  std::vector<std::span<const std::byte>> Stretches(const TensorSlice&) const override {
    return {};
  }

  absl::Status ReadBlocks(const TensorSlice& slice, int64_t first_row, int64_t rows,
                          std::span<std::byte> destination) const override {
    RETURN_IF_ERROR(CheckSlice(slice, *Find(slice.name), first_row, rows, destination.size(),
                               origin_, "config.json"));
    while (rows > 0) {
      ASSIGN_OR_RETURN(const std::shared_ptr<Held> held, WaitFor(slice.name, first_row));
      const int64_t row_bytes = held->piece.bytes / held->piece.rows;
      const int64_t skip = first_row - held->piece.first;
      const int64_t count = std::min(rows, held->piece.rows - skip);
      const auto bytes = static_cast<size_t>(count * row_bytes);
      std::copy_n(held->bytes.begin() + skip * row_bytes, bytes, destination.begin());
      destination = destination.subspan(bytes);
      first_row += count;
      rows -= count;
      Drop(*held, count);
    }
    return absl::OkStatus();
  }

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  struct Held {
    Piece piece;
    std::vector<std::byte> bytes;
    int64_t rows_left = 0;  // guarded by mutex_
  };

  void Run() {
    for (const Piece& piece : coming_) {
      {
        std::unique_lock lock(mutex_);
        // More, if some thread would wait for ever: one that has failed leaves rows unread.
        changed_.wait(lock, [this] { return stopped_ || wanted_ || held_.size() < kPiecesHeld; });
        wanted_ = false;
        if (stopped_) {
          lock.unlock();
          TakeNoMore(world_).IgnoreError();
          return;
        }
      }
      auto bytes = Receive(world_, piece.bytes);
      const std::lock_guard lock(mutex_);
      if (bytes.ok()) {
        bytes_read_ += bytes->size();
        held_.push_back(std::make_shared<Held>(Held{piece, *std::move(bytes), piece.rows}));
      } else {
        failure_ = bytes.status();
      }
      changed_.notify_all();
      if (!failure_.ok()) return;
    }
  }

  absl::StatusOr<std::shared_ptr<Held>> WaitFor(const std::string& name, int64_t row) const {
    std::unique_lock lock(mutex_);
    while (true) {
      for (const std::shared_ptr<Held>& held : held_) {
        const Piece& piece = held->piece;
        if (piece.slice->name == name && piece.first <= row && row < piece.first + piece.rows) {
          return held;
        }
      }
      RETURN_IF_ERROR(failure_);
      wanted_ = true;
      changed_.notify_all();
      changed_.wait(lock);
    }
  }

  void Drop(Held& read, int64_t rows) const {
    const std::lock_guard lock(mutex_);
    read.rows_left -= rows;
    if (read.rows_left > 0) return;
    std::erase_if(held_, [&](const auto& held) { return held.get() == &read; });
    changed_.notify_all();
  }

  const std::string origin_;
  Communicator& world_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::vector<Piece> coming_;
  std::atomic<uint64_t> bytes_read_{0};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable std::deque<std::shared_ptr<Held>> held_;  // guarded by mutex_, as the next three
  mutable bool wanted_ = false;                     // what no piece that is held has
  absl::Status failure_;
  bool stopped_ = false;
  std::thread thread_;
};

// The rank's slices in the order in which rank 0 sends them.
absl::StatusOr<std::vector<TensorSlice>> InOrder(const v1::TensorTable& table,
                                                 const std::vector<TensorSlice>& slices) {
  std::vector<TensorSlice> in_order;
  for (const v1::StoredTensor& tensor : table.tensors()) {
    const auto found = std::find_if(slices.begin(), slices.end(), [&](const TensorSlice& slice) {
      return slice.name == tensor.name();
    });
    if (found == slices.end() || tensor.dtype() > static_cast<uint32_t>(DType::kFp8)) break;
    in_order.push_back(*found);
  }
  if (in_order.size() == slices.size()) return in_order;
  return absl::InternalError("rank 0 sends other tensors than this rank's; are they one version?");
}

absl::StatusOr<BroadcastWeights> ReceiveWeights(const std::vector<TensorSlice>& slices, Ops& ops,
                                                const LoadOptions& options, Communicator& world,
                                                int64_t piece_bytes) {
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Receive(world, std::nullopt));
  v1::TensorTable table;
  absl::StatusOr<std::vector<TensorSlice>> in_order =
      absl::InternalError("rank 0 sends a table of tensors that cannot be parsed");
  if (table.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    in_order = InOrder(table, slices);
  }
  if (!in_order.ok()) {
    RETURN_IF_ERROR(TakeNoMore(world));
    return in_order.status();
  }
  const ReceivedSlices received(table, *in_order, world, piece_bytes);
  ASSIGN_OR_RETURN(Weights weights, Weights::Load(received, *in_order, ops, options));
  return BroadcastWeights{std::move(weights), received.bytes_read()};
}

}  // namespace

absl::StatusOr<BroadcastWeights> LoadByBroadcast(
    const absl::StatusOr<std::unique_ptr<Checkpoint>>& checkpoint,
    const std::vector<std::vector<TensorSlice>>& slices, Ops& ops, const LoadOptions& options,
    Communicator& world, int64_t piece_bytes) {
  const auto& own = slices[static_cast<size_t>(world.rank())];
  if (world.rank() != 0) {
    if (checkpoint.ok()) {
      return ReceiveWeights(own, ops, options, world, piece_bytes);
    }
    RETURN_IF_ERROR(TakeNoMore(world));
    return checkpoint.status();
  }
  SliceSender sender(checkpoint, slices, world, piece_bytes);
  absl::StatusOr<Weights> weights = checkpoint.ok() ? Weights::Load(**checkpoint, own, ops, options)
                                                    : absl::StatusOr<Weights>(checkpoint.status());
  RETURN_IF_ERROR(sender.Finish(weights.status()));
  const uint64_t bytes_read = (*checkpoint)->bytes_read();
  return BroadcastWeights{*std::move(weights), bytes_read};
}

}  // namespace trireme
