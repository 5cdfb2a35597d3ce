#pragma once

#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/client.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

// How an answer survives what happens to its server: as flags.
struct RetryFlags {
  std::string idempotency_key;  // empty: one is drawn for each answer
  double retry_s = 30;          // without a token; 0: no second try

  void Define(CLI::App& command);
};

struct AnswerOptions {
  RetryFlags retry;
  std::string tenant;    // whose the key is
  double timeout_s = 0;  // for all of it; 0: none
  bool keyed = true;     // false: the request cannot have a key, so there is one try
};

struct AnswerOutcome {
  grpc::Status status;
  std::string retry_after;   // seconds, as the server sent them with the status; or empty
  bool interrupted = false;  // by Ctrl-C: the server was told to forget the request
};

// Starts a call with an idempotency key, or none if it is empty, for a client that has received so
// many tokens of each continuation.
using StartAnswer = std::function<std::unique_ptr<ResponseReader>(
    grpc::ClientContext& context, const std::string& key, const std::vector<uint32_t>& received)>;

// Streams an answer to its end, calling `on_response` for each message. A server that goes, or that
// asks to try again, is asked again, and the stream goes on where it was: nothing comes twice.
AnswerOutcome StreamAnswer(v1::Inference::Stub& stub, const AnswerOptions& options,
                           const StartAnswer& start,
                           const std::function<void(const v1::GenerateResponse&)>& on_response);

// For StartAnswer: GenerateRequest and ChatRequest name these alike.
template <typename Request>
void SetIdempotency(Request& request, const std::string& key,
                    const std::vector<uint32_t>& received) {
  request.set_idempotency_key(key);
  request.mutable_tokens_received()->Assign(received.begin(), received.end());
}

}  // namespace trireme
