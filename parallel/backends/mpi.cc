#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "parallel/communicator.h"

namespace trireme {
namespace {

// MPI counts elements with an int: larger buffers travel in pieces of this many bytes.
constexpr size_t kPieceBytesMax = size_t{1} << 30;

// A message has at least one piece, so that empty ones synchronise as well.
size_t PieceCount(size_t bytes) {
  return std::max<size_t>(1, (bytes + kPieceBytesMax - 1) / kPieceBytesMax);
}

template <typename Byte>
std::span<Byte> Piece(std::span<Byte> data, size_t index) {
  const size_t begin = index * kPieceBytesMax;
  return data.subspan(begin, std::min(kPieceBytesMax, data.size() - begin));
}

absl::Status MpiStatus(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::InternalError(absl::StrCat("mpi: ", std::string(what), ": ",
                                          std::string(text, static_cast<size_t>(length))));
}

// MPI between MPI_Init and MPI_Finalize; shared by all communicators.
class MpiSession {
 public:
  static absl::StatusOr<std::shared_ptr<MpiSession>> Start(int* argc, char*** argv) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized != 0) {
      return absl::FailedPreconditionError("mpi: already initialised in this process");
    }
    int provided = MPI_THREAD_SINGLE;
    RETURN_IF_ERROR(
        MpiStatus(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread"));
    auto session = std::make_shared<MpiSession>();
    if (provided < MPI_THREAD_MULTIPLE) {
      return absl::FailedPreconditionError(
          "mpi: this MPI library does not support MPI_THREAD_MULTIPLE; use one that does");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return session;
  }

  MpiSession() = default;
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() {
    if (!failed_) MPI_Finalize();
  }

  void SetFailed() { failed_ = true; }
  bool failed() const { return failed_; }

 private:
  std::atomic<bool> failed_ = false;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiSession> session, MPI_Comm comm)
      : session_(std::move(session)), comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~MpiCommunicator() override {
    // Buffers must live until they are delivered; on an orderly end they have been taken.
    if (!session_->failed()) {
      MPI_Waitall(static_cast<int>(posted_.size()), posted_.data(), MPI_STATUSES_IGNORE);
    }
    if (comm_ != MPI_COMM_WORLD && !session_->failed()) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view name() const override { return "mpi"; }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    return Transfer(data, true, {}, false, destination, kSendTag);
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    return Transfer({}, false, data, true, source, kSendTag);
  }
  absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                        int peer) override {
    return Transfer(send, true, receive, true, peer, kSendTag);
  }

  absl::Status Post(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    RETURN_IF_ERROR(ReapPosted());
    const auto copy = std::make_shared<std::vector<std::byte>>(data.begin(), data.end());
    for (size_t i = 0; i < PieceCount(data.size()); ++i) {
      const std::span<std::byte> piece = Piece(std::span(*copy), i);
      posted_data_.push_back(copy);
      RETURN_IF_ERROR(
          Check(MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, destination,
                          kPostTag, comm_, &posted_.emplace_back(MPI_REQUEST_NULL)),
                "MPI_Isend"));
    }
    // A small message is usually away at once.
    return ReapPosted();
  }

  absl::Status Take(std::span<std::byte> data, int source) override {
    return Transfer({}, false, data, true, source, kPostTag);
  }

  absl::Status Barrier() override { return Check(MPI_Barrier(comm_), "MPI_Barrier"); }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (root < 0 || root >= size_) return BadRank(root);
    for (size_t i = 0; i < PieceCount(data.size()); ++i) {
      const std::span<std::byte> piece = Piece(data, i);
      RETURN_IF_ERROR(
          Check(MPI_Bcast(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, root, comm_),
                "MPI_Bcast"));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() != mine.size() * static_cast<size_t>(size_)) {
      return Fail(absl::InvalidArgumentError(absl::StrCat("AllGather: ", all.size(), " bytes for ",
                                                          size_, " blocks of ", mine.size())));
    }
    if (mine.size() <= kPieceBytesMax) {
      const int count = static_cast<int>(mine.size());
      return Check(MPI_Allgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_),
                   "MPI_Allgather");
    }
    const auto block = [&](int rank) { return all.subspan(rank * mine.size(), mine.size()); };
    std::memmove(block(rank_).data(), mine.data(), mine.size());
    for (int root = 0; root < size_; ++root) RETURN_IF_ERROR(Broadcast(block(root), root));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    MPI_Comm group = MPI_COMM_NULL;
    RETURN_IF_ERROR(Check(MPI_Comm_split(comm_, color, key, &group), "MPI_Comm_split"));
    MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);
    return std::make_unique<MpiCommunicator>(session_, group);
  }

 private:
  static constexpr int kSendTag = 0;
  static constexpr int kPostTag = 1;

  // Sends and receives (or one of both) at once; pieces between two ranks stay in order.
  absl::Status Transfer(std::span<const std::byte> send, bool sends, std::span<std::byte> receive,
                        bool receives, int peer, int tag) {
    RETURN_IF_ERROR(CheckPeer(peer));
    const size_t receive_count = receives ? PieceCount(receive.size()) : 0;
    const size_t send_count = sends ? PieceCount(send.size()) : 0;
    std::vector<MPI_Request> requests(receive_count + send_count, MPI_REQUEST_NULL);
    for (size_t i = 0; i < receive_count; ++i) {
      const std::span<std::byte> piece = Piece(receive, i);
      RETURN_IF_ERROR(Check(MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, peer,
                                      tag, comm_, &requests[i]),
                            "MPI_Irecv"));
    }
    for (size_t i = 0; i < send_count; ++i) {
      const std::span<const std::byte> piece = Piece(send, i);
      RETURN_IF_ERROR(Check(MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, peer,
                                      tag, comm_, &requests[receive_count + i]),
                            "MPI_Isend"));
    }
    std::vector<MPI_Status> statuses(requests.size());
    const int code =
        MPI_Waitall(static_cast<int>(requests.size()), requests.data(), statuses.data());
    for (size_t i = 0; i < requests.size(); ++i) {
      const bool own_error = code == MPI_ERR_IN_STATUS && statuses[i].MPI_ERROR != MPI_ERR_PENDING;
      RETURN_IF_ERROR(Check(own_error ? statuses[i].MPI_ERROR : MPI_SUCCESS, "MPI_Waitall"));
    }
    RETURN_IF_ERROR(Check(code, "MPI_Waitall"));
    for (size_t i = 0; i < receive_count; ++i) {
      RETURN_IF_ERROR(CheckReceived(statuses[i], Piece(receive, i).size(), peer));
    }
    return absl::OkStatus();
  }

  // A longer message is an error of MPI's own, a shorter one is not.
  absl::Status CheckReceived(const MPI_Status& status, size_t expected, int peer) {
    int received = 0;
    RETURN_IF_ERROR(Check(MPI_Get_count(&status, MPI_BYTE, &received), "MPI_Get_count"));
    if (static_cast<size_t>(received) == expected) return absl::OkStatus();
    return Fail(
        absl::InternalError(absl::StrCat("rank ", rank_, " expected ", expected,
                                         " bytes from rank ", peer, ", which sent ", received)));
  }

  // Forgets the posted messages that are delivered.
  absl::Status ReapPosted() {
    if (posted_.empty()) return absl::OkStatus();
    std::vector<int> done(posted_.size());
    int count = 0;
    RETURN_IF_ERROR(Check(MPI_Testsome(static_cast<int>(posted_.size()), posted_.data(), &count,
                                       done.data(), MPI_STATUSES_IGNORE),
                          "MPI_Testsome"));
    if (count == 0 || count == MPI_UNDEFINED) return absl::OkStatus();
    size_t kept = 0;
    for (size_t i = 0; i < posted_.size(); ++i) {
      if (posted_[i] == MPI_REQUEST_NULL) continue;
      posted_[kept] = posted_[i];
      posted_data_[kept++] = std::move(posted_data_[i]);
    }
    posted_.resize(kept);
    posted_data_.resize(kept);
    return absl::OkStatus();
  }

  absl::Status CheckPeer(int peer) {
    return peer < 0 || peer >= size_ || peer == rank_ ? BadRank(peer) : absl::OkStatus();
  }

  absl::Status BadRank(int peer) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("rank ", rank_, " of ", size_, " cannot exchange data with rank ", peer)));
  }

  absl::Status Check(int code, std::string_view what) {
    return code == MPI_SUCCESS ? absl::OkStatus() : Fail(MpiStatus(code, what));
  }

  absl::Status Fail(absl::Status status) {
    session_->SetFailed();
    return status;
  }

  const std::shared_ptr<MpiSession> session_;
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
  // What was posted and may not be delivered yet: requests, and the buffer of each. A message in
  // pieces has several with the same buffer.
  std::vector<MPI_Request> posted_;
  std::vector<std::shared_ptr<std::vector<std::byte>>> posted_data_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeMpiCommunicator(int* argc, char*** argv) {
  ASSIGN_OR_RETURN(std::shared_ptr<MpiSession> session, MpiSession::Start(argc, argv));
  return std::make_unique<MpiCommunicator>(std::move(session), MPI_COMM_WORLD);
}

bool UnderMpiLauncher() {
  // Open MPI's mpirun; a PMIx launcher such as srun --mpi=pmix; MPICH's and Slurm's PMI.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace trireme
