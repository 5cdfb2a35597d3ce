#include "parallel/network_devices.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

std::string FirstLine(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

using AddressList = std::unique_ptr<ifaddrs, void (*)(ifaddrs*)>;

// Empty if the kernel does not say.
AddressList ListAddresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) list = nullptr;
  return {list, freeifaddrs};
}

// IFF_UP and the like; 0 if there is no such interface.
unsigned InterfaceFlags(const std::string& interface) {
  const AddressList interfaces = ListAddresses();
  for (const ifaddrs* it = interfaces.get(); it != nullptr; it = it->ifa_next) {
    if (interface == it->ifa_name) return it->ifa_flags;
  }
  return 0;
}

// Where the kernel would send from. A datagram socket connects without a packet.
absl::StatusOr<sockaddr_storage> SourceTowards(const addrinfo& target) {
  const int fd = socket(target.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage source{};
  socklen_t length = sizeof(source);
  const bool ok = fd >= 0 && connect(fd, target.ai_addr, target.ai_addrlen) == 0 &&
                  getsockname(fd, reinterpret_cast<sockaddr*>(&source), &length) == 0;
  if (fd >= 0) close(fd);
  if (!ok) return absl::UnavailableError("no route");
  return source;
}

bool SameHost(const sockaddr* a, const sockaddr_storage& b) {
  if (a == nullptr || a->sa_family != b.ss_family) return false;
  const auto* other = reinterpret_cast<const sockaddr*>(&b);
  if (a->sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in*>(other)->sin_addr.s_addr;
  }
  return a->sa_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(other)->sin6_addr,
                     sizeof(in6_addr)) == 0;
}

// An RDMA port belongs to an interface by its GIDs (RoCE) or by its device (IP over InfiniBand).
bool BelongsTo(const fs::path& device, const fs::path& port, const std::string& interface) {
  std::error_code error;
  if (fs::exists(device / "device" / "net" / interface, error)) return true;
  for (const auto& entry : fs::directory_iterator(port / "gid_attrs" / "ndevs", error)) {
    if (FirstLine(entry.path()) == interface) return true;
  }
  return false;
}

}  // namespace

std::string HostName() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

absl::StatusOr<std::string> InterfaceTowards(const std::string& host_port) {
  const size_t colon = host_port.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return absl::InvalidArgumentError(absl::StrCat(host_port, " is not HOST:PORT"));
  }
  std::string host = host_port.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), host_port.c_str() + colon + 1, &hints, &found);
  if (code != 0) {
    return absl::InvalidArgumentError(absl::StrCat(host_port, ": ", gai_strerror(code)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> targets(found, freeaddrinfo);
  const AddressList interfaces = ListAddresses();
  for (const addrinfo* target = targets.get(); target != nullptr; target = target->ai_next) {
    const absl::StatusOr<sockaddr_storage> source = SourceTowards(*target);
    if (!source.ok()) continue;
    for (const ifaddrs* it = interfaces.get(); it != nullptr; it = it->ifa_next) {
      if (!SameHost(it->ifa_addr, *source)) continue;
      const std::string name = it->ifa_name;  // of a second address maybe "eth0:1"
      return name.substr(0, name.find(':'));
    }
  }
  return absl::UnavailableError(absl::StrCat("no network interface leads to ", host_port));
}

bool InterfaceIsUp(const std::string& interface) {
  return (InterfaceFlags(interface) & IFF_RUNNING) != 0;
}

bool IsLoopbackInterface(const std::string& interface) {
  return (InterfaceFlags(interface) & IFF_LOOPBACK) != 0;
}

int LinkMbitPerSecond(const std::string& interface) {
  int mbit = 0;
  const std::string text = FirstLine(fs::path("/sys/class/net") / interface / "speed");
  return absl::SimpleAtoi(text, &mbit) && mbit > 0 ? mbit : 0;
}

std::string LinkSpeed(const std::string& interface) {
  const int mbit = LinkMbitPerSecond(interface);
  return mbit > 0 ? absl::StrCat(mbit, " Mbit/s") : "speed unknown";
}

std::vector<std::string> RdmaPorts(const std::string& interface) {
  std::vector<std::string> ports;
  std::error_code error;
  for (const auto& device : fs::directory_iterator("/sys/class/infiniband", error)) {
    std::error_code none;
    for (const auto& port : fs::directory_iterator(device.path() / "ports", none)) {
      const std::string name =
          absl::StrCat(device.path().filename().string(), ":", port.path().filename().string());
      // "4: ACTIVE"
      if (FirstLine(port.path() / "state").rfind("4", 0) != 0) continue;
      if (interface.empty() || interface == name ||
          BelongsTo(device.path(), port.path(), interface)) {
        ports.push_back(name);
      }
    }
  }
  return ports;
}

}  // namespace trireme
