// For tests of the client: a client that talks to a FakeServer, and what such a server answers
// with.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/fake_server.h"
#include "objmapper/client.h"
#include "posix/file.h"
#include "posix/memfd.h"
#include "wire/messages.h"

namespace om::client {

inline Result<Client> connect_to(FakeServer& server,
                                 std::chrono::milliseconds timeout = std::chrono::seconds(5)) {
  ConnectOptions options;
  options.timeout = timeout;
  options.name = "test";
  return Client::adopt(Fd::adopt(server.take_client_end()), options);
}

// A client whose HELLO went well; `script` is what the daemon does then.
struct Meeting {
  explicit Meeting(std::function<void(FakeServer&)> script,
                   std::chrono::milliseconds timeout = std::chrono::seconds(5))
      : server([script = std::move(script)](FakeServer& s) {
          s.welcome();
          script(s);
        }) {
    auto connected = connect_to(server, timeout);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  FakeServer server;
  std::optional<Client> client;
};

inline UniqueFd file_with(const std::string& bytes) {
  UniqueFd file = *make_memfd("test", bytes.size());
  EXPECT_TRUE(write_exactly(file.borrow(), 0, std::as_bytes(std::span(bytes))));
  return file;
}

inline wire::GetItem item(std::uint64_t lease, std::vector<wire::Extent> extents) {
  wire::GetItem item;
  item.lease_id = lease;
  item.info.object_id = lease + 100;
  for (const auto& extent : extents) item.info.length += extent.length;
  item.info.total_bytes = item.info.length;
  item.extents = std::move(extents);
  return item;
}

inline wire::Segment segment(std::uint64_t id, std::uint64_t size, wire::SegmentKind kind,
                             bool writable = false, bool with_descriptor = true) {
  return {id, size, static_cast<std::uint8_t>(kind), std::uint8_t{writable},
          std::uint8_t{with_descriptor}};
}

inline std::size_t open_descriptors() {
  return list_directory(open_directory("/proc/self/fd")->borrow())->size();
}

}  // namespace om::client
