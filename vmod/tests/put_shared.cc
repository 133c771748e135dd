// put_shared: publishes a response as another cache would, for tests of the director.
//
//   put_shared SOCKET KEY [OPTION VALUE]...
//     status N   reason TEXT   header "Name: value"   vary "name=value" or "name"   (both
//     repeatable) age S   ttl S   grace S   keep S      the object is S seconds old, and so on
//     began S (its fetch, so many seconds ago; else as age)   body
//     TEXT   file PATH   gzip-bits HEX prefix P   host H   url U             KEY is the hex digest;
//     the rest of the key is made of these identity 1                            for requests that
//     do not accept gzip variant 1                             under the key of its variant, with
//     the index that names it disk 1   metadata TEXT (instead of what encode() makes)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>

#include "objmapper/client.h"
#include "shared_object.h"

namespace {

using namespace om::vmod;

[[noreturn]] void fail(const std::string& what) {
  std::cerr << "put_shared: " << what << "\n";
  std::exit(1);  // NOLINT(concurrency-mt-unsafe)
}

std::vector<std::uint8_t> from_hex(const std::string& text) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc % 2 == 0) fail("SOCKET KEY [OPTION VALUE]...");
  om::ConnectOptions connect;
  connect.socket = argv[1];
  std::string key = argv[2];
  shared::Metadata metadata;
  metadata.reason = "OK";
  metadata.ttl = 120;
  om::PutOptions put;
  std::string body, prefix, host, url, raw;
  double age = 0;
  std::optional<double> began;
  bool identity = false, variant = false;
  for (int i = 3; i < argc; i += 2) {
    const std::string option = argv[i];
    const std::string value = argv[i + 1];
    if (option == "status")
      metadata.status = static_cast<std::uint16_t>(std::stoul(value));
    else if (option == "reason")
      metadata.reason = value;
    else if (option == "header")
      metadata.headers.push_back(value);
    else if (option == "vary") {
      const std::size_t at = value.find('=');
      shared::VaryField field{value.substr(0, at), std::nullopt};
      if (at != std::string::npos) field.value = value.substr(at + 1);
      metadata.vary.push_back(field);
    } else if (option == "age")
      age = std::stod(value);
    else if (option == "began")
      began = std::stod(value);
    else if (option == "ttl")
      metadata.ttl = std::stod(value);
    else if (option == "grace")
      metadata.grace = std::stod(value);
    else if (option == "keep")
      metadata.keep = std::stod(value);
    else if (option == "body")
      body = value;
    else if (option == "file") {
      std::ifstream file(value, std::ios::binary);
      if (!file) fail("cannot open " + value);
      body.assign(std::istreambuf_iterator<char>(file), {});
    } else if (option == "gzip-bits") {
      std::ranges::copy(from_hex(value), metadata.gzip_bits.emplace().begin());
    } else if (option == "prefix")
      prefix = value;
    else if (option == "host")
      host = value;
    else if (option == "url")
      url = value;
    else if (option == "identity")
      identity = true;
    else if (option == "variant")
      variant = true;
    else if (option == "tag")
      put.tags.push_back(value);
    else if (option == "disk")
      put.disk = true;
    else if (option == "metadata")
      raw = value;
    else
      fail("what is " + option + "?");
  }
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  metadata.t_origin = now - age;
  metadata.ban_time = now - began.value_or(age);
  if (!url.empty()) key = shared::base_key(prefix, host, url, from_hex(key));
  key = shared::primary_key(key, !identity);

  auto client = om::Client::connect(connect);
  if (!client) fail(om::describe(client.error()));
  const auto publish = [&](const std::string& at, const shared::Metadata& what,
                           const std::string& bytes) {
    const auto encoded = shared::encode(what);
    if (!encoded) fail(om::describe(encoded.error()));
    put.key = at;
    put.metadata = raw.empty() ? *encoded : raw;
    put.expires_ns = shared::expires_ns(what);
    if (const auto done = client->put(put, bytes); !done) fail(om::describe(done.error()));
    std::cout << at << "\n";
  };
  if (variant) {
    shared::Metadata index = metadata;
    index.kind = shared::Kind::kVaryIndex;
    index.headers.clear();
    index.gzip_bits.reset();
    for (shared::VaryField& field : index.vary) field.value.reset();
    publish(key, index, "");
    key = shared::variant_key(key, metadata.vary);
  }
  publish(key, metadata, body);
  return 0;
}
