#pragma once

#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <functional>
#include <memory>
#include <string>

#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

inline constexpr const char* kDefaultServer = "127.0.0.1:8001";

// Defines --server, which is `server` where the command line and TRIREME_SERVER say nothing.
void AddServerFlag(CLI::App& command, std::string& server);

// A channel with a connection of its own: two to the same server do not share one.
std::shared_ptr<grpc::Channel> ConnectTo(const std::string& server);

// Prints a failed call as one line that says what to do; returns the exit code.
int ReportError(const std::string& server, const grpc::Status& status);
// The same, with the seconds after which the server asks to try again; "" if it does not.
int ReportError(const std::string& server, const grpc::Status& status,
                const std::string& retry_after);
// Whether no server was there to answer the call.
bool IsUnreachable(const grpc::Status& status);

// Keeps SIGINT from this thread, and from those that it starts, which inherit that: a thread of
// gRPC's that took the signal would end the program, whoever waits for it elsewhere. A signal that
// comes meanwhile waits for an InterruptScope, or for the end of this.
class InterruptBlocked {
 public:
  InterruptBlocked();
  InterruptBlocked(const InterruptBlocked&) = delete;
  InterruptBlocked& operator=(const InterruptBlocked&) = delete;
  ~InterruptBlocked();

 private:
  sigset_t previous_{};
};

// Calls `on_interrupt` from a thread of its own on Ctrl-C (SIGINT) as long as it lives; a second
// Ctrl-C ends the program. One at a time.
class InterruptScope {
 public:
  explicit InterruptScope(std::function<void()> on_interrupt);
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
