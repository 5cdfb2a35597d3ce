#include "worker/load_reporter.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "trireme/v1/loading.grpc.pb.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Coordinator final : public v1::Loading::Service {
 public:
  // On this port of loopback; 0: a free one.
  explicit Coordinator(int port) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  grpc::Status Report(grpc::ServerContext*, const v1::LoadingRank*, v1::LoadingReported*) override {
    ++reports_;
    return grpc::Status::OK;
  }

  int port() const { return port_; }

  bool IsToldWithin(seconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    while (reports_ == 0 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    return reports_ > 0;
  }

 private:
  int port_ = 0;
  std::atomic<int> reports_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// The coordinator gives a gang up of which one rank is heard ten seconds before another.
TEST(LoadReporter, IsHeardSoonAlsoAfterALongCut) {
  auto coordinator = std::make_unique<Coordinator>(0);
  const int port = coordinator->port();
  ASSERT_NE(port, 0);
  LoadCount count;
  const LoadReporter reporter(absl::StrCat("127.0.0.1:", port), {}, count);
  EXPECT_TRUE(coordinator->IsToldWithin(seconds(10)));
  coordinator.reset();
  std::this_thread::sleep_for(seconds(11));
  coordinator = std::make_unique<Coordinator>(port);
  ASSERT_EQ(coordinator->port(), port);
  EXPECT_TRUE(coordinator->IsToldWithin(seconds(2)));
}

}  // namespace
}  // namespace trireme
