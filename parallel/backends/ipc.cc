#include "parallel/backends/ipc.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cuda/all_reduce.h"
#include "parallel/wire.h"

namespace trireme {
namespace {

static_assert(kIpcRanksMax == cuda::kPeersMax);

absl::Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("ipc: ", what, ": ", cudaGetErrorString(error)));
}

class Ipc final : public IpcCommunicator {
 public:
  Ipc(Communicator* host, void* stream, std::unique_ptr<DeviceCommunicator> large,
      const IpcOptions& options)
      : host_(host),
        large_(std::move(large)),
        deterministic_(options.deterministic),
        timeout_(options.timeout) {
    peers_.rank = host->rank();
    peers_.size = host->size();
    peers_.timeout_ns = static_cast<uint64_t>(std::chrono::nanoseconds(options.timeout).count());
    peers_.stream = static_cast<cudaStream_t>(stream);
  }

  ~Ipc() override {
    large_.reset();  // its close is bounded, and ends its kernels: the stream drains
    cudaStreamSynchronize(peers_.stream);
    // Also after an error: peers may read until they have noticed it.
    host_->Barrier().IgnoreError();
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank() && peers_.buffers[peer] != nullptr) {
        cudaIpcCloseMemHandle(peers_.buffers[peer]);
      }
    }
    host_->Barrier().IgnoreError();
    cudaFree(own_);
    cudaFreeHost(peers_.failure);
  }

  // Collective. A rank that fails tells the others, so that none waits.
  absl::Status Init() {
    struct Introduction {
      cudaIpcMemHandle_t handle;
      bool ok;
    } mine = {};
    const absl::Status allocated = Allocate(&mine.handle);
    mine.ok = allocated.ok();
    std::vector<Introduction> all(static_cast<size_t>(size()));
    RETURN_IF_ERROR(host_->AllGather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(all))));
    RETURN_IF_ERROR(allocated);
    for (int peer = 0; peer < size(); ++peer) {
      if (all[static_cast<size_t>(peer)].ok) continue;
      return absl::UnavailableError(absl::StrCat("ipc: rank ", peer, " failed"));
    }
    absl::Status opened;
    for (int peer = 0; peer < size() && opened.ok(); ++peer) {
      if (peer != rank()) opened = Open(peer, all[static_cast<size_t>(peer)].handle);
    }
    mine.ok = opened.ok();
    RETURN_IF_ERROR(host_->AllGather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(all))));
    RETURN_IF_ERROR(opened);
    for (int peer = 0; peer < size(); ++peer) {
      if (!all[static_cast<size_t>(peer)].ok) {
        return absl::FailedPreconditionError(
            absl::StrCat("ipc: rank ", peer, " cannot address its peers' memory; see its log"));
      }
    }
    return absl::OkStatus();
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string_view name() const override { return "ipc"; }
  bool capturable() const override { return large_ == nullptr || large_->capturable(); }

  absl::Status AllReduceSum(std::span<float> data) override {
    RETURN_IF_ERROR(Check());
    switch (ChooseAllReduce(data.size_bytes(), size(), deterministic_, large_ != nullptr)) {
      case AllReduceWay::kOneShot:
        cuda::AllReduceOneShot(peers_, data.data(), static_cast<int64_t>(data.size()));
        break;
      case AllReduceWay::kTwoShot:
      case AllReduceWay::kTwoShotPieces:
        for (size_t begin = 0; begin < data.size(); begin += cuda::kPeerFloatsMax) {
          const std::span<float> rest = data.subspan(begin);
          cuda::AllReduceTwoShot(peers_, rest.data(),
                                 std::min(cuda::kPeerFloatsMax, static_cast<int64_t>(rest.size())));
        }
        break;
      case AllReduceWay::kLarge:
        return large_->AllReduceSum(data);
    }
    return Launched();
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    RETURN_IF_ERROR(Check());
    if (all.size() != mine.size() * static_cast<size_t>(size())) {
      return absl::InvalidArgumentError(absl::StrCat("AllGather: ", all.size(), " bytes for ",
                                                     size(), " blocks of ", mine.size()));
    }
    if (large_ != nullptr && mine.size() > static_cast<size_t>(cuda::kPeerBytesMax)) {
      return large_->AllGather(mine, all);
    }
    for (size_t begin = 0; begin < mine.size(); begin += cuda::kPeerBytesMax) {
      const size_t bytes = std::min<size_t>(cuda::kPeerBytesMax, mine.size() - begin);
      cuda::AllGatherPeers(peers_, mine.data() + begin, all.data() + begin,
                           static_cast<int64_t>(bytes), static_cast<int64_t>(mine.size()));
    }
    return Launched();
  }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckLarge());
    return large_->Send(data, destination);
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckLarge());
    return large_->Recv(data, source);
  }

  bool CanFuse(int64_t rows, int64_t row_length) const override {
    return cuda::CanFuseRmsNorm(rows, row_length);
  }

  absl::Status AllReduceRmsNorm(const SumAndNorm& a) override {
    RETURN_IF_ERROR(Check());
    const auto cols = static_cast<int64_t>(a.weight.size());
    const int64_t rows = cols == 0 ? 0 : static_cast<int64_t>(a.hidden.size()) / cols;
    if (!CanFuse(rows, cols) || a.delta.size() != a.hidden.size() ||
        a.out.size() != a.hidden.size() || (!a.bias.empty() && a.bias.size() != a.weight.size())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "AllReduceRmsNorm: needs what CanFuse allows, with delta, hidden and out of one size, "
          "not ",
          rows, " rows of ", cols));
    }
    cuda::AllReduceRmsNorm(peers_, {.delta = a.delta.data(),
                                    .hidden = a.hidden.data(),
                                    .bias = a.bias.empty() ? nullptr : a.bias.data(),
                                    .weight = a.weight.data(),
                                    .eps = a.eps,
                                    .out = a.out.data(),
                                    .rows = rows,
                                    .cols = cols});
    return Launched();
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(CheckPeers());
    return large_ == nullptr ? absl::OkStatus() : large_->Check();
  }

  // The kernels here give up by themselves, so the work ends; for those of `large_` it must watch.
  absl::Status Wait(const std::function<absl::StatusOr<bool>()>& done) override {
    if (large_ == nullptr) return DeviceCommunicator::Wait(done);
    return large_->Wait([&]() -> absl::StatusOr<bool> {
      ASSIGN_OR_RETURN(const bool is_done, done());
      RETURN_IF_ERROR(CheckPeers());
      return is_done;
    });
  }

 private:
  absl::Status CheckPeers() const {
    // The device writes it while we look.
    const uint32_t failure = *const_cast<const volatile uint32_t*>(peers_.failure);
    if (failure != 0) {
      return absl::UnavailableError(absl::StrCat(
          "ipc: rank ", rank(), ": rank ", failure - 1, " did not come to a collective within ",
          timeout_.count(), " ms; see whether it lives, and its log"));
    }
    return absl::OkStatus();
  }

  absl::Status Allocate(cudaIpcMemHandle_t* handle) {
    void* failure = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaHostAlloc(&failure, sizeof(uint32_t), cudaHostAllocDefault),
                               "cudaHostAlloc"));
    peers_.failure = static_cast<uint32_t*>(failure);
    *peers_.failure = 0;
    RETURN_IF_ERROR(CudaStatus(cudaMalloc(&own_, sizeof(cuda::PeerBuffer)), "cudaMalloc"));
    RETURN_IF_ERROR(
        CudaStatus(cudaMemset(own_, 0, offsetof(cuda::PeerBuffer, parts)), "cudaMemset"));
    RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
    peers_.buffers[rank()] = static_cast<cuda::PeerBuffer*>(own_);
    return CudaStatus(cudaIpcGetMemHandle(handle, own_), "cudaIpcGetMemHandle");
  }

  absl::Status Open(int peer, const cudaIpcMemHandle_t& handle) {
    void* memory = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
      cudaGetLastError();  // noticed here, so that no later launch is blamed
      absl::Status status = absl::FailedPreconditionError(absl::StrCat(
          "ipc: rank ", rank(), " cannot address the memory of rank ", peer, ": ",
          cudaGetErrorString(error),
          "; containers need a common /dev/shm and process namespace (docker --ipc=host "
          "--pid=host), and the GPUs peer access (nvidia-smi topo -p2p r)"));
      LogError(std::string(status.message()));
      return status;
    }
    peers_.buffers[peer] = static_cast<cuda::PeerBuffer*>(memory);
    return absl::OkStatus();
  }

  absl::Status Launched() { return CudaStatus(cudaGetLastError(), "a kernel did not start"); }

  absl::Status CheckLarge() {
    RETURN_IF_ERROR(Check());
    if (large_ != nullptr) return absl::OkStatus();
    return absl::FailedPreconditionError("ipc: point to point needs NCCL or the staged way");
  }

  Communicator* const host_;
  std::unique_ptr<DeviceCommunicator> large_;
  const bool deterministic_;
  const std::chrono::milliseconds timeout_;
  void* own_ = nullptr;  // this rank's PeerBuffer
  cuda::PeerGroup peers_;
};

}  // namespace

AllReduceWay ChooseAllReduce(size_t bytes, int ranks, bool deterministic, bool has_large) {
  const size_t one_shot_max = ranks <= 2 ? 512 << 10 : ranks <= 4 ? 128 << 10 : 64 << 10;
  if (bytes <= one_shot_max) return AllReduceWay::kOneShot;
  if (bytes <= static_cast<size_t>(cuda::kPeerBytesMax)) return AllReduceWay::kTwoShot;
  return has_large && !deterministic ? AllReduceWay::kLarge : AllReduceWay::kTwoShotPieces;
}

absl::StatusOr<std::unique_ptr<IpcCommunicator>> MakeIpcCommunicator(
    Communicator* host, void* stream, std::unique_ptr<DeviceCommunicator> large,
    const IpcOptions& options) {
  const int ranks = host->size();
  if (ranks > cuda::kPeersMax || (ranks & (ranks - 1)) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("ipc: a group has 1, 2, 4 or ", cuda::kPeersMax, " ranks, not ", ranks));
  }
  auto communicator = std::make_unique<Ipc>(host, stream, std::move(large), options);
  RETURN_IF_ERROR(communicator->Init());
  return communicator;
}

}  // namespace trireme
