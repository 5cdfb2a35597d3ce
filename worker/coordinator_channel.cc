#include "worker/coordinator_channel.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// Null if it is not connected in time. A channel that was refused would not try again for 100 ms at
// least, which is long for a coordinator that starts together with us, so each try has a new one.
std::shared_ptr<grpc::Channel> TryConnect(const std::string& address,
                                          std::chrono::milliseconds timeout) {
  using Clock = std::chrono::system_clock;
  const auto start = Clock::now();
  const auto deadline = start + timeout;
  while (true) {
    std::shared_ptr<grpc::Channel> channel = MakeCoordinatorChannel(address);
    grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE) {
      if (!channel->WaitForStateChange(state, deadline)) return nullptr;
      state = channel->GetState(true);
    }
    if (state == GRPC_CHANNEL_READY) return channel;
    // Not much later than need be, and not often where it takes long.
    const auto pause = std::clamp<Clock::duration>(
        (Clock::now() - start) / 50, std::chrono::milliseconds(5), std::chrono::seconds(1));
    std::this_thread::sleep_until(std::min(Clock::now() + pause, deadline));
    if (Clock::now() >= deadline) return nullptr;
  }
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeCoordinatorChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A coordinator whose host has vanished does not close its connections. Ranks that serve have a
  // lease, which is shorter.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // see TryConnect
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectCoordinator(
    const std::string& address, std::chrono::milliseconds timeout) {
  std::shared_ptr<grpc::Channel> channel = TryConnect(address, timeout);
  if (channel != nullptr) return channel;
  return absl::UnavailableError(absl::StrCat("cannot reach the coordinator at ", address,
                                             " within ", timeout.count() / 1000,
                                             " s; start trireme-coordinator there, or correct "
                                             "--coordinator"));
}

}  // namespace trireme
