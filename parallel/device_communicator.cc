#include "parallel/device_communicator.h"

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

class HostDeviceCommunicator final : public DeviceCommunicator {
 public:
  explicit HostDeviceCommunicator(Communicator* host) : host_(*host) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  std::string_view name() const override { return host_.name(); }
  bool capturable() const override { return false; }

  absl::Status AllReduceSum(std::span<float> data) override { return host_.AllReduceSum(data); }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return host_.AllGather(mine, all);
  }
  absl::Status Send(std::span<const std::byte> data, int destination) override {
    return host_.Send(data, destination);
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    return host_.Recv(data, source);
  }
  absl::Status Check() override { return absl::OkStatus(); }

 private:
  Communicator& host_;
};

class StagedCommunicator final : public DeviceCommunicator {
 public:
  StagedCommunicator(Communicator* host, HostCopies* copies)
      : host_(*host), copies_(*copies), name_(absl::StrCat("staged ", std::string(host->name()))) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  std::string_view name() const override { return name_; }
  bool capturable() const override { return false; }

  absl::Status AllReduceSum(std::span<float> data) override {
    if (size() == 1) return absl::OkStatus();
    sums_.resize(data.size());
    RETURN_IF_ERROR(copies_.CopyOut(std::as_bytes(data), std::as_writable_bytes(std::span(sums_))));
    RETURN_IF_ERROR(host_.AllReduceSum(sums_));
    return copies_.CopyIn(std::as_bytes(std::span(sums_)), std::as_writable_bytes(data));
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    bytes_.resize(mine.size());
    gathered_.resize(all.size());
    RETURN_IF_ERROR(copies_.CopyOut(mine, bytes_));
    RETURN_IF_ERROR(host_.AllGather(bytes_, gathered_));
    return copies_.CopyIn(gathered_, all);
  }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    bytes_.resize(data.size());
    RETURN_IF_ERROR(copies_.CopyOut(data, bytes_));
    return host_.Send(bytes_, destination);
  }

  absl::Status Recv(std::span<std::byte> data, int source) override {
    bytes_.resize(data.size());
    RETURN_IF_ERROR(host_.Recv(bytes_, source));
    return copies_.CopyIn(bytes_, data);
  }

  absl::Status Check() override { return absl::OkStatus(); }

 private:
  Communicator& host_;
  HostCopies& copies_;
  const std::string name_;
  // Staging memory, which keeps its size so that a step allocates nothing.
  std::vector<float> sums_;
  std::vector<std::byte> bytes_;
  std::vector<std::byte> gathered_;
};

}  // namespace

absl::Status DeviceCommunicator::Wait(const std::function<absl::StatusOr<bool>()>& done) {
  while (true) {
    ASSIGN_OR_RETURN(const bool is_done, done());
    RETURN_IF_ERROR(Check());
    if (is_done) return absl::OkStatus();
    std::this_thread::yield();
  }
}

std::unique_ptr<DeviceCommunicator> MakeHostDeviceCommunicator(Communicator* host) {
  return std::make_unique<HostDeviceCommunicator>(host);
}

std::unique_ptr<DeviceCommunicator> MakeStagedCommunicator(Communicator* host, HostCopies* copies) {
  return std::make_unique<StagedCommunicator>(host, copies);
}

}  // namespace trireme
