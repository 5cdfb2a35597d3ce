#include "worker/layers/device_link.h"

#include <string>
#include <utility>

namespace trireme {
namespace {

class MemoryCopies final : public HostCopies {
 public:
  explicit MemoryCopies(Memory& memory) : memory_(memory) {}
  absl::Status CopyOut(std::span<const std::byte> device, std::span<std::byte> host) override {
    return memory_.CopyOut(host, device.data());
  }
  absl::Status CopyIn(std::span<const std::byte> host, std::span<std::byte> device) override {
    return memory_.CopyIn(device.data(), host);
  }

 private:
  Memory& memory_;
};

// A staged communicator and the copies it works with.
class StagedLink final : public DeviceCommunicator {
 public:
  StagedLink(Communicator& group, Memory& memory)
      : copies_(memory), staged_(MakeStagedCommunicator(&group, &copies_)) {}

  int rank() const override { return staged_->rank(); }
  int size() const override { return staged_->size(); }
  std::string_view name() const override { return staged_->name(); }
  bool capturable() const override { return staged_->capturable(); }
  absl::Status AllReduceSum(std::span<float> data) override { return staged_->AllReduceSum(data); }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return staged_->AllGather(mine, all);
  }
  absl::Status Send(std::span<const std::byte> data, int destination) override {
    return staged_->Send(data, destination);
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    return staged_->Recv(data, source);
  }
  absl::Status Check() override { return staged_->Check(); }

 private:
  MemoryCopies copies_;
  const std::unique_ptr<DeviceCommunicator> staged_;
};

}  // namespace

DeviceLink LinkThroughHost(Memory& memory) {
  return [&memory](Communicator& group,
                   LinkUse) -> absl::StatusOr<std::unique_ptr<DeviceCommunicator>> {
    if (memory.on_host()) return MakeHostDeviceCommunicator(&group);
    return std::make_unique<StagedLink>(group, memory);
  };
}

}  // namespace trireme
