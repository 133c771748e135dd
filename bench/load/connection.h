// connection.h: one connection and the request that is under way on it.
//
//   idle     nothing is asked; the peer may close
//   header   asked; the answer's header is not complete
//   body     of known length: discarded in the kernel (MSG_TRUNC, tcp(7)), or read and compared
#pragma once

#include <xxhash.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "load/targets.h"
#include "load/totals.h"
#include "posix/unique_fd.h"

namespace om::load {

struct Options {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;
  std::string unix_path;
  std::string url_file;
  std::string host = "bench.test";
  std::vector<std::string> headers;
  std::size_t connections = 8;
  double seconds = 3;
  std::uint64_t requests = 0;
  double rate = 0;
  double zipf = 0;
  bool in_order = false;
  bool verify = false;
  std::uint64_t sample = 0;  // compare every n-th body
  std::string range;         // bytes of each request, a size
  double slices = 0;
  std::uint64_t seed = 1;
};

class Connection {
 public:
  enum class State { kIdle, kHeader, kBody };

  Connection(const Options& options, Totals& totals) : options_(options), totals_(totals) {}

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] int fd() const { return socket_.raw(); }
  [[nodiscard]] bool open() const { return static_cast<bool>(socket_); }

  bool connect();
  // A range of `range_length` bytes from `range_begin` on, or with a length of 0 all.
  bool send(const Target& target, Clock::time_point due, bool compare, std::uint64_t range_begin,
            std::uint64_t range_length);
  // What is readable. False: the connection is of no more use.
  bool receive();

 private:
  bool fail(const char* why);
  bool header(std::string_view bytes);
  [[nodiscard]] std::string field(const std::string& name) const;
  void body(std::string_view bytes, std::uint64_t n);
  bool finish();

  struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  const Options& options_;
  Totals& totals_;
  UniqueFd socket_;
  State state_ = State::kIdle;
  const Target* target_ = nullptr;
  Clock::time_point due_;
  Clock::time_point first_byte_;
  std::string head_;
  int status_ = 0;
  std::uint64_t left_ = 0;
  std::uint64_t length_ = 0;
  std::uint64_t range_begin_ = 0;
  std::uint64_t range_length_ = 0;
  std::uint64_t at_ = 0;  // in the body of the target
  bool close_ = false;
  bool hit_ = false;
  bool compare_ = false;
  bool equal_ = true;
  std::unique_ptr<XXH3_state_t, FreeHash> hash_{XXH3_createState()};
  // Where it begins decides what copying from pages that were spliced costs (docs/varnish.md).
  alignas(4096) std::array<char, std::size_t{256} << 10> buffer_;
};

}  // namespace om::load
