#include "cli/proxy/origin.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "posix/unique_fd.h"

namespace om::cli::proxy {
namespace {

TEST(Origin, WhatPeopleType) {
  struct Row {
    const char* typed;
    const char* text;
  };
  for (const Row& row : {
           Row{"http://127.0.0.1:8081", "http://127.0.0.1:8081"},
           Row{"http://127.0.0.1:8081/", "http://127.0.0.1:8081"},
           Row{"127.0.0.1", "http://127.0.0.1"},
           Row{"www.example.org", "http://www.example.org"},
           Row{"http://www.example.org:80", "http://www.example.org"},
           Row{"localhost:3000", "http://localhost:3000"},
           Row{"http://[::1]:3000", "http://[::1]:3000"},
           Row{"[2001:db8::1]", "http://[2001:db8::1]"},
           Row{"unix:/run/app.sock", "unix:/run/app.sock"},
           Row{"/run/app.sock", "unix:/run/app.sock"},
       }) {
    const auto origin = parse_origin(row.typed);
    ASSERT_TRUE(origin) << row.typed << ": " << origin.error().what;
    EXPECT_EQ(origin->text(), row.text) << row.typed;
  }
}

TEST(Origin, NearMissesAreRefusedWithASentence) {
  for (const char* typed : {"", "http://", "http://:80", "ftp://a", "http://a:0", "http://a:65536",
                            "http://a:b", "http://a:", "::1", "http://::1:80", "http://[::1",
                            "http://[::1]80", "http://[::1]:", "http://[a]:1", "http://a/b", "a b",
                            "http://a\"b", "http://user@host", "unix:/a\"b"}) {
    const auto origin = parse_origin(typed);
    ASSERT_FALSE(origin) << typed;
    EXPECT_EQ(origin.error().code, Errc::kMalformed) << typed;
    EXPECT_GT(origin.error().what.size(), 10U) << typed;
  }
}

TEST(Origin, HttpsIsRefusedWithAdvice) {
  const auto origin = parse_origin("https://www.example.org");
  ASSERT_FALSE(origin);
  EXPECT_NE(origin.error().what.find("stunnel"), std::string::npos);
}

TEST(Listen, WhatPeopleType) {
  EXPECT_EQ(parse_listen(":8080")->text(), ":8080");
  EXPECT_EQ(parse_listen("8080")->text(), ":8080");
  EXPECT_EQ(parse_listen("127.0.0.1:8080")->text(), "127.0.0.1:8080");
  EXPECT_EQ(parse_listen("[::1]:8080")->text(), "[::1]:8080");
  EXPECT_EQ(parse_listen(":8080")->local(), "127.0.0.1:8080");
  EXPECT_EQ(parse_listen("[::]:8080")->local(), "[::1]:8080");
  for (const char* typed : {"", ":", ":0", "a", "127.0.0.1", ":65536", "/run/x", "a b:1"}) {
    EXPECT_FALSE(parse_listen(typed)) << typed;
  }
}

// A listener on a port that the kernel chose.
struct Listener {
  UniqueFd socket = UniqueFd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  std::uint16_t port = 0;
  explicit Listener(bool listening) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(socket.raw(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    if (listening) {
      EXPECT_EQ(::listen(socket.raw(), 1), 0);
    }
    socklen_t size = sizeof address;
    ::getsockname(socket.raw(), reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
  }
};

TEST(Listen, APortThatIsTakenIsSaidSo) {
  const Listener listener(true);
  const auto checked = check_listen({.host = "127.0.0.1", .port = listener.port});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Errc::kBusy);
  EXPECT_NE(checked.error().what.find("--listen"), std::string::npos);
}

TEST(Listen, AForeignAddressIsSaidSo) {
  const auto checked = check_listen({.host = "192.0.2.1", .port = 8080});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Errc::kMalformed);
}

TEST(Reach, TellsAnOriginThatAnswersFromOneThatDoesNot) {
  using namespace std::chrono_literals;
  const Listener listener(true);
  const Listener closed(false);
  const auto there = reach({.host = "localhost", .port = listener.port, .path = ""}, 1s);
  ASSERT_TRUE(there);
  EXPECT_TRUE(there->answers);
  EXPECT_EQ(there->address, "127.0.0.1");
  const auto away = reach({.host = "127.0.0.1", .port = closed.port, .path = ""}, 1s);
  ASSERT_TRUE(away);
  EXPECT_FALSE(away->answers);
  EXPECT_EQ(away->why_not, "Connection refused");
}

TEST(Reach, ANameThatDoesNotResolveIsAnError) {
  const auto reached =
      reach({.host = "no-such-host.invalid", .port = 80, .path = ""}, std::chrono::seconds(1));
  ASSERT_FALSE(reached);
  EXPECT_EQ(reached.error().code, Errc::kNotFound);
}

}  // namespace
}  // namespace om::cli::proxy
