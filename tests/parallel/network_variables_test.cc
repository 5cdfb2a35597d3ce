#include "parallel/network_variables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> Lines(const std::vector<EnvironmentVariable>& variables) {
  std::vector<std::string> lines;
  for (const EnvironmentVariable& variable : variables) {
    lines.push_back(absl::StrCat(variable.name, "=", variable.value));
  }
  return lines;
}

TEST(NcclVariables, AnInterfaceThatWasFoundLeavesTheAdaptersToNccl) {
  EXPECT_THAT(Lines(NcclVariables({.interface = "eth0"})), ElementsAre("NCCL_SOCKET_IFNAME==eth0"));
  EXPECT_THAT(Lines(NcclVariables({.interface = "eth0", .rdma_ports = {"mlx5_0:1"}})),
              ElementsAre("NCCL_SOCKET_IFNAME==eth0"));
  EXPECT_THAT(NcclVariables({}), IsEmpty());
}

TEST(NcclVariables, AnInterfaceThatWasAskedForIsAllThereIs) {
  EXPECT_THAT(Lines(NcclVariables({.interface = "eth0", .asked = true})),
              ElementsAre("NCCL_SOCKET_IFNAME==eth0", "NCCL_IB_DISABLE=1"));
  EXPECT_THAT(Lines(NcclVariables(
                  {.interface = "ib0", .rdma_ports = {"mlx5_0:1", "mlx5_1:1"}, .asked = true})),
              ElementsAre("NCCL_SOCKET_IFNAME==ib0", "NCCL_IB_HCA==mlx5_0:1,mlx5_1:1"));
  EXPECT_THAT(Lines(NcclVariables({.rdma_ports = {"mlx5_0:1"}, .asked = true})),
              ElementsAre("NCCL_IB_HCA==mlx5_0:1"));
}

TEST(NcclVariables, RequiredRdmaIsInfiniBandOrAnError) {
  EXPECT_THAT(
      Lines(NcclVariables({.interface = "ib0", .rdma_ports = {"mlx5_0:1"}, .require_rdma = true})),
      ElementsAre("NCCL_SOCKET_IFNAME==ib0", "NCCL_IB_HCA==mlx5_0:1", "NCCL_NET=IB"));
  EXPECT_THAT(Lines(NcclVariables({.require_rdma = true})), ElementsAre("NCCL_NET=IB"));
  EXPECT_THAT(Lines(NcclVariables({.interface = "eth0", .asked = true, .require_rdma = true})),
              ElementsAre("NCCL_SOCKET_IFNAME==eth0", "NCCL_NET=IB"));
}

TEST(MpiVariables, NameTheInterfaceAndItsPorts) {
  EXPECT_THAT(Lines(MpiVariables({.interface = "eth0", .asked = true})),
              ElementsAre("OMPI_MCA_btl_tcp_if_include=eth0", "UCX_NET_DEVICES=eth0"));
  EXPECT_THAT(Lines(MpiVariables({.interface = "ib0", .rdma_ports = {"mlx5_0:1"}, .asked = true})),
              ElementsAre("OMPI_MCA_btl_tcp_if_include=ib0", "UCX_NET_DEVICES=ib0,mlx5_0:1"));
  EXPECT_THAT(Lines(MpiVariables({.rdma_ports = {"mlx5_0:1"}, .asked = true})),
              ElementsAre("UCX_NET_DEVICES=mlx5_0:1"));
}

TEST(MpiVariables, LeaveUcxThePortsElsewhereUnlessTheInterfaceWasAskedFor) {
  EXPECT_THAT(Lines(MpiVariables({.interface = "eth0", .idle_rdma_ports = {"mlx5_0:1"}})),
              ElementsAre("OMPI_MCA_btl_tcp_if_include=eth0"));
  EXPECT_THAT(
      Lines(MpiVariables({.interface = "eth0", .idle_rdma_ports = {"mlx5_0:1"}, .asked = true})),
      ElementsAre("OMPI_MCA_btl_tcp_if_include=eth0", "UCX_NET_DEVICES=eth0"));
}

TEST(WarnOfIdleRdma, NamesThePorts) {
  EXPECT_EQ(WarnOfIdleRdma({.interface = "ib0", .rdma_ports = {"mlx5_0:1"}}), "");
  EXPECT_EQ(
      WarnOfIdleRdma({.interface = "eth0", .idle_rdma_ports = {"mlx5_0:1", "mlx5_1:1"}}),
      "RDMA ports lie idle: mlx5_0:1, mlx5_1:1, while eth0 leads to the coordinator; name one "
      "with --net-interface");
}

TEST(SetVariables, KeepsWhatTheUserHasSet) {
  setenv("TRIREME_TEST_SET", "mine", 1);
  unsetenv("TRIREME_TEST_UNSET");
  EXPECT_EQ(SetVariables({{"TRIREME_TEST_SET", "a"}, {"TRIREME_TEST_UNSET", "b"}}),
            "TRIREME_TEST_SET=mine (as set before), TRIREME_TEST_UNSET=b");
  EXPECT_STREQ(std::getenv("TRIREME_TEST_SET"), "mine");
  EXPECT_STREQ(std::getenv("TRIREME_TEST_UNSET"), "b");
}

TEST(CheckNcclEnvironment, RefusesWhatForbidsRdma) {
  const NetworkChoice required{.require_rdma = true};
  unsetenv("NCCL_NET");
  unsetenv("NCCL_IB_DISABLE");
  EXPECT_TRUE(CheckNcclEnvironment(required).ok());
  setenv("NCCL_NET", "socket", 1);
  EXPECT_THAT(CheckNcclEnvironment(required).message(), HasSubstr("NCCL_NET"));
  EXPECT_TRUE(CheckNcclEnvironment({}).ok());
  unsetenv("NCCL_NET");
  setenv("NCCL_IB_DISABLE", "1", 1);
  EXPECT_THAT(CheckNcclEnvironment(required).message(), HasSubstr("NCCL_IB_DISABLE=1"));
  setenv("NCCL_IB_DISABLE", "0", 1);
  EXPECT_TRUE(CheckNcclEnvironment(required).ok());
  unsetenv("NCCL_IB_DISABLE");
}

TEST(ChooseNetwork, KnowsItsInterfaces) {
  const absl::StatusOr<NetworkChoice> choice = ChooseNetwork("lo", false);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->interface, "lo");
  EXPECT_TRUE(choice->asked);
  EXPECT_THAT(DescribeNetwork(*choice), HasSubstr("TCP at lo, "));
  EXPECT_THAT(ChooseNetwork("nowhere0", false).status().message(),
              HasSubstr("--net-interface nowhere0: this host has no such interface"));
}

}  // namespace
}  // namespace trireme
