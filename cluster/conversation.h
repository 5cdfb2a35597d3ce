#pragma once

#include <memory>
#include <string>

#include "cluster/answer_stream.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

struct ConversationOptions {
  std::string server;  // HOST:PORT of the coordinator
  std::string system;  // system message; empty: none
  v1::SamplingParams sampling;
  v1::Scheduling scheduling;
  RetryFlags retry;
  bool chat = true;  // false: each question is a text to go on with, without those before it
};

// A conversation at the terminal: the messages so far, and the calls that continue them. Not
// thread safe.
class Conversation {
 public:
  explicit Conversation(const ConversationOptions& options);

  // Forgets all but the system message.
  void Reset();

  // Streams the answer to standard output; Ctrl-C stops it. A cancelled answer stays in the
  // conversation as far as it got; a failed question does not. Returns the exit code.
  int Ask(const std::string& question);

  // Questions of standard input until its end, or /exit. Returns the exit code.
  int Run();

 private:
  // Forgets the oldest questions and their answers when the conversation nearly fills the context.
  void MakeRoom();
  void Add(const std::string& role, const std::string& content);

  const ConversationOptions options_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  v1::ChatRequest request_;
};

}  // namespace trireme
