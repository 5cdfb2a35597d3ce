#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/sync_stream.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace trireme {

// What grpc.health.v1 at HOST:PORT says of a service: "SERVING", "NOT_SERVING", or why it says
// neither. Its two messages are written and read by hand: gRPC does not install their headers.
inline std::string HealthOf(const std::string& address, const std::string& service) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  std::string check = "\x0A";
  check += static_cast<char>(service.size());
  check += service;
  const grpc::Slice request(check);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                         grpc::internal::RpcMethod::SERVER_STREAMING, channel);
  const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
      grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel.get(), method, &context,
                                                                    grpc::ByteBuffer(&request, 1)));
  grpc::ByteBuffer bytes;
  std::vector<grpc::Slice> slices;
  std::string answer;
  if (reader->Read(&bytes) && bytes.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) answer.append(part.begin(), part.end());
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return status.error_message();
  if (answer == "\x08\x01") return "SERVING";
  if (answer == "\x08\x02") return "NOT_SERVING";
  return "an answer of " + std::to_string(answer.size()) + " bytes";
}

}  // namespace trireme
