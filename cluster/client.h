#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

inline constexpr const char* kDefaultServer = "127.0.0.1:8001";

std::shared_ptr<grpc::Channel> ConnectTo(const std::string& server);

// Prints a failed call as one line that says what to do; returns the exit code.
int ReportError(const std::string& server, const grpc::Status& status);

// Cancels a call on Ctrl-C (SIGINT) as long as it lives; a second Ctrl-C ends the program. One at a
// time.
class InterruptScope {
 public:
  explicit InterruptScope(grpc::ClientContext& context);
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
  ~InterruptScope();
  bool interrupted() const;

 private:
  class Watcher;
  std::unique_ptr<Watcher> watcher_;
};

using ResponseReader = grpc::ClientReader<v1::GenerateResponse>;

// Reads a response stream to its end, calling `on_response` for each message.
grpc::Status ReadResponses(ResponseReader& reader,
                           const std::function<void(const v1::GenerateResponse&)>& on_response);

}  // namespace trireme
