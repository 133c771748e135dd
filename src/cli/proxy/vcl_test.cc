#include "cli/proxy/vcl.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace om::cli::proxy {
namespace {

VclInput input() {
  VclInput in;
  in.origin = {.host = "www.example.org", .port = 8081, .path = ""};
  in.origin_address = "192.0.2.7";
  in.probe = "/";
  in.vmod_path = "/run/x/libvmod_objmapper.so";
  in.objmapper_socket = "/run/x/objmapper.sock";
  in.memory_bytes = 64U << 20U;
  return in;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Vcl, NamesTheOriginByAddressAndItsHostForTheProbe) {
  const std::string vcl = make_vcl(input());
  EXPECT_TRUE(has(vcl, ".host = \"192.0.2.7\";"));
  EXPECT_TRUE(has(vcl, ".port = \"8081\";"));
  EXPECT_TRUE(has(vcl, "\"Host: www.example.org:8081\""));
  EXPECT_FALSE(has(vcl, "set req.http.Host = \""));
}

TEST(Vcl, AUnixSocketIsAPath) {
  auto in = input();
  in.origin = {.host = "", .port = 80, .path = "/run/app.sock"};
  const std::string vcl = make_vcl(in);
  EXPECT_TRUE(has(vcl, ".path = \"/run/app.sock\";"));
  EXPECT_FALSE(has(vcl, "\t.host = "));
}

TEST(Vcl, ReservesWhatItIsTold) {
  auto in = input();
  EXPECT_TRUE(has(make_vcl(in), "memory = 67108864B"));
  EXPECT_FALSE(has(make_vcl(in), "disk = "));
  in.disk_bytes = 1U << 30U;
  EXPECT_TRUE(has(make_vcl(in), "disk = 1073741824B"));
}

TEST(Vcl, WithoutAProbeNothingIsAskedAndNothingIsCalledSick) {
  auto in = input();
  in.probe.clear();
  const std::string vcl = make_vcl(in);
  EXPECT_FALSE(has(vcl, ".probe"));
  EXPECT_FALSE(has(vcl, "origin_health"));
  EXPECT_TRUE(has(vcl, "if (true && "));
}

TEST(Vcl, XCacheCanBeLeftOut) {
  auto in = input();
  EXPECT_TRUE(has(make_vcl(in), "resp.http.X-Cache"));
  in.x_cache = false;
  EXPECT_FALSE(has(make_vcl(in), "resp.http.X-Cache"));
}

TEST(Vcl, TheUsersSubsComeAfterTheResetAndBeforeOurDecisions) {
  auto in = input();
  in.user_vcl_path = "/etc/mine.vcl";
  in.host_header = "origin.example.org";
  const std::string vcl = make_vcl(in);
  const auto user = vcl.find("include \"/etc/mine.vcl\";");
  ASSERT_NE(user, std::string::npos);
  EXPECT_LT(vcl.find("unset req.http.X-Objm-Has-Stale;"), user);
  EXPECT_GT(vcl.find("req.method == \"PURGE\""), user);
  EXPECT_GT(vcl.find("set req.http.Host = \"origin.example.org\";"), user);
}

TEST(Vcl, RemovalsGoByTheNameThatObjectsAreStoredUnder) {
  auto in = input();
  in.host_header = "origin.example.org";
  const std::string vcl = make_vcl(in);
  const auto host = vcl.find("set req.http.Host = \"origin.example.org\";");
  ASSERT_NE(host, std::string::npos);
  const auto lower = vcl.find("set req.http.Host = req.http.Host.lower();");
  ASSERT_NE(lower, std::string::npos);
  EXPECT_LT(host, vcl.find("req.method == \"PURGE\""));
  EXPECT_LT(lower, vcl.find("return (purge);"));
  EXPECT_LT(lower, vcl.find("set req.http.X-Ban = "));
}

TEST(Vcl, BracesAreInBalance) {
  const std::string vcl = make_vcl(input());
  // One pair stands in the character class of the regular expression that quotes a URL.
  EXPECT_EQ(std::count(vcl.begin(), vcl.end(), '{'), std::count(vcl.begin(), vcl.end(), '}'));
  EXPECT_FALSE(has(vcl, "HEALTHY"));
}

}  // namespace
}  // namespace om::cli::proxy
