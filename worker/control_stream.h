#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "parallel/collective_watch.h"
#include "parallel/communicator.h"
#include "trireme/v1/worker.grpc.pb.h"
#include "worker/lease.h"
#include "worker/serving_barrier.h"

namespace trireme {

// A rank's end of its control stream, with the signs of life that go over it beside plans and
// results. What is public is for one thread, which computes, except Drain.
class ControlStream {
 public:
  // Opens the stream and registers; whether that worked, Next tells. All outlive it: `watch`,
  // which may be null, is what signs of life say of exchanges; the gang's ranks meet in `barrier`
  // before they serve, and then, when the coordinator is gone, even out over `ranks` what they have
  // got; null: a rank alone. A Shutdown of a lost gang ends the process at once: peers that it may
  // wait for can be gone.
  ControlStream(v1::WorkerControl::Stub& stub, const v1::Register& registration,
                const CollectiveWatch* watch, Communicator* ranks, ServingBarrier& barrier);
  ~ControlStream();  // cuts it, if it is not at its end

  using Clock = std::chrono::steady_clock;

  // The next message that is not a Heartbeat; waits for it, until `deadline` if there is one.
  // Nothing at the end of the stream, or at the deadline. A Welcome only if all ranks have got
  // theirs. Once a gang serves, all its ranks get the same plans and self-tests, also from a
  // coordinator that had sent the last ones to some only.
  std::optional<v1::CoordinatorMessage> Next(std::optional<Clock::time_point> deadline = {});

  // Whether Next would return at once.
  bool HasNext();

  // False if the stream has ended.
  bool Send(const v1::WorkerMessage& message);
  // After the last Send.
  void SendsDone();
  // The last Send, and what follows it.
  void SendLast(const v1::WorkerMessage& message);
  // How the stream has ended; after Next has returned nothing.
  grpc::Status Finish();

  // From now on a thread tells the coordinator several times per lease how far the rank is. The
  // lease runs from when the last Progress that has been answered was sent. When it runs out the
  // process ends, or, if it is idle, the stream. After the end of the stream, when nothing this
  // rank says can reach anyone, there is a fixed time for the rest of a step and for the ranks to
  // agree what to do; the lease is given up with this object.
  absl::Status KeepLease(std::chrono::milliseconds lease);
  void BeginStep(uint64_t step);
  void EndStep(uint64_t step);
  void BeginSelfTest();
  void EndSelfTest();

  // Asks the coordinator to let the rank go when the steps under way are done; the answer is a
  // Shutdown. Ends the process if it has nothing to finish. Returns at once; any thread.
  void Drain();

 private:
  using Stream = grpc::ClientReaderWriterInterface<v1::WorkerMessage, v1::CoordinatorMessage>;

  void Read();
  bool Serves(std::unique_lock<std::mutex>& lock);
  void TakeMissed();
  void Beat();
  v1::Progress MakeProgress() const;  // needs mutex_
  void Renew(const v1::Heartbeat& heartbeat);
  void OnShutdown(const v1::Shutdown& shutdown);
  void Keep(const v1::CoordinatorMessage& message);
  void OnEnd();
  void SetEnd();
  // When it is time to say that the lease runs out; needs mutex_.
  Clock::time_point LastWords() const;
  bool computing() const { return testing_ || progress_.step_begun() > progress_.step_done(); }
  bool over() const { return closing_ || shut_down_ || ended_; }

  const CollectiveWatch* const watch_;
  Communicator* const ranks_;
  ServingBarrier& barrier_;
  grpc::ClientContext context_;
  const std::unique_ptr<Stream> stream_;

  std::mutex write_mutex_;  // a stream takes one write at a time

  std::mutex mutex_;
  std::condition_variable changed_;
  // All guarded by mutex_.
  std::deque<v1::CoordinatorMessage> unread_;
  bool ended_ = false;     // the stream is over
  bool complete_ = false;  // nothing more will come, also from other ranks
  bool welcomed_ = false;  // a Welcome has come
  bool serving_ = false;   // and to every other rank, too
  grpc::Status how_ended_{};
  bool shut_down_ = false;   // a Shutdown has come
  bool sends_done_ = false;  // this rank leaves the gang
  bool closing_ = false;     // our threads shall end
  bool draining_ = false;
  std::unique_ptr<Lease> lease_;
  Clock::duration lease_length_{};
  Clock::time_point answered_;  // when the last Progress that was answered had been sent
  Clock::time_point end_;       // of the lease, once the stream has ended
  v1::Progress progress_;
  bool testing_ = false;

  // Of the reader: the plans and self-tests.
  uint64_t received_ = 0;
  std::deque<v1::CoordinatorMessage> latest_;  // of those
  size_t latest_bytes_ = 0;

  std::thread reader_;
  std::thread beats_;
};

}  // namespace trireme
