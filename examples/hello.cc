// Stores an object, reads it back, removes it. Build it against an installed objmapper:
//
//   c++ -std=c++20 hello.cc $(pkg-config --cflags --libs objmapper) -o hello
//   ./hello [SOCKET]
#include <objmapper/client.h>

#include <iostream>

namespace {

om::Result<void> hello(const std::string& socket) {
  om::ConnectOptions options;
  options.socket = socket;
  options.name = "hello";
  auto client = om::Client::connect(options);
  if (!client) return client.error();

  // Nobody sees the object before commit().
  om::PutOptions put;
  put.key = "http://example.org/hello";
  put.tags = {"greetings"};
  put.expires_ns = om::expires_in(std::chrono::minutes(10));
  auto writer = client->reserve(put);
  if (!writer) return writer.error();
  for (const std::string piece : {"hello, ", "world"})
    if (auto written = writer->write(std::as_bytes(std::span(piece))); !written) return written;
  auto done = std::move(*writer).commit();
  if (!done) return done.error();

  // While the lease lives, the bytes stay, even though the object is removed meanwhile.
  auto lease = client->get(put.key);
  if (!lease) return lease.error();
  if (!*lease) return om::Error{om::Errc::kNotFound, 0, put.key};
  if (auto removed = client->remove(put.key); !removed) return removed.error();
  auto spans = (*lease)->map();
  if (!spans) return spans.error();
  for (const auto span : *spans)
    std::cout.write(reinterpret_cast<const char*>(span.data()),
                    static_cast<std::streamsize>(span.size()));
  std::cout << std::endl;
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const auto done = hello(argc > 1 ? argv[1] : om::kDefaultSocket);
  if (done) return 0;
  std::cerr << "hello: " << om::describe(done.error()) << std::endl;
  return 1;
}
