// The floor: what an answer costs when nobody thinks about it. A child process that answers every
// packet with one of a given size over SOCK_SEQPACKET, in the two shapes that a server can have,
// by bare system calls and without descriptors.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "posix/unique_fd.h"

namespace om::bench {

enum class Shape {
  kBlocking,  // a thread for each connection, in recv(2)
  kEpoll,     // one thread for all of them
};

class Floor {
 public:
  Floor(Shape shape, std::size_t connections, std::size_t reply_bytes);
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor();
  // Our end of connection `i`.
  [[nodiscard]] int socket(std::size_t i) const { return ends_[i].raw(); }

 private:
  std::vector<UniqueFd> ends_;
  pid_t child_ = -1;
};

}  // namespace om::bench
