// objm-origin: an HTTP/1.1 origin that costs as little as it can and has every body there is
// (content.h). A thread for each connection; bodies go out of one table in memory.
//
//   GET /o/SIZE/NAME   the body, cacheable for a day
//   GET /count         requests of the first kind so far, as text
//
//   objm-origin --port N [--delay-ms N]
//   objm-origin --write DIR --urls FILE     writes the bodies of the file's paths below DIR instead
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "load/content.h"
#include "load/targets.h"
#include "load/threaded_server.h"

namespace om::load {
namespace {

std::atomic<std::uint64_t> asked{0};

bool answer(int to, const Request& request, std::chrono::milliseconds delay) {
  const std::string& path = request.path;
  if (path == "/count") {
    const std::string body = std::to_string(asked.load());
    return send_all(to, "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) +
                            "\r\nCache-Control: no-store\r\n\r\n" + body);
  }
  const auto length = body_length(path);
  if (!length) return send_all(to, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
  asked.fetch_add(1);
  if (delay.count() > 0) std::this_thread::sleep_for(delay);
  const std::string header =
      "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: "
      "max-age=86400\r\n"
      "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: " +
      std::to_string(*length) + "\r\n\r\n";
  if (!send_all(to, header, *length > 0 && !request.head ? MSG_MORE : 0)) return false;
  if (request.head) return true;
  for (std::uint64_t at = 0; at < *length;) {
    const std::string_view piece = Content::instance().piece(path, at, *length - at);
    if (!send_all(to, piece)) return false;
    at += piece.size();
  }
  return true;
}

int write_files(const std::string& folder, const std::string& url_file) {
  std::ifstream urls(url_file);
  for (const Target& target : read_targets(urls)) {
    const auto length = body_length(target.path);
    if (!length) continue;
    const std::filesystem::path path = folder + target.path;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary);
    for (std::uint64_t at = 0; at < *length;) {
      const std::string_view piece = Content::instance().piece(target.path, at, *length - at);
      file.write(piece.data(), static_cast<std::streamsize>(piece.size()));
      at += piece.size();
    }
    file.close();
    if (!file) {
      std::fprintf(stderr, "objm-origin: %s cannot be written\n", path.c_str());
      return 1;
    }
  }
  return 0;
}

int run(int argc, char** argv) {
  std::uint16_t port = 0;
  unsigned delay_ms = 0;
  std::string folder;
  std::string url_file;
  CLI::App app{"an origin that has every body there is"};
  app.add_option("--port", port, "where to listen, on 127.0.0.1");
  app.add_option("--delay-ms", delay_ms, "before each answer");
  app.add_option("--write", folder, "write the bodies below this folder instead");
  app.add_option("--urls", url_file, "of these paths");
  CLI11_PARSE(app, argc, argv);
  if (!folder.empty()) return write_files(folder, url_file);
  (void)Content::instance();  // lest the first request waits for it
  serve(listen_on_loopback(port),
        [delay = std::chrono::milliseconds(delay_ms)](int to, const Request& request) {
          return answer(to, request, delay);
        });
}

}  // namespace
}  // namespace om::load

int main(int argc, char** argv) { return om::load::run(argc, argv); }
