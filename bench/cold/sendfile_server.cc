// objm-sendfile: the least that a server of files can do: open, send the header, sendfile, close. A
// thread for each connection. What a cache whose bodies lie in files is measured against.
//
//   objm-sendfile --root DIR --port N [--unix PATH]
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <string>
#include <thread>

#include "load/threaded_server.h"
#include "posix/unique_fd.h"

namespace om::load {
namespace {

constexpr std::size_t kPieceBytes = 1024 * 1024;

bool answer(int to, const std::string& path) {
  const UniqueFd file = UniqueFd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.raw(), &status) != 0 || !S_ISREG(status.st_mode))
    return send_all(to, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
  auto left = static_cast<std::size_t>(status.st_size);
  if (!send_all(
          to,
          "HTTP/1.1 200 OK\r\nX-Cache: hit\r\nContent-Length: " + std::to_string(left) + "\r\n\r\n",
          left > 0 ? MSG_MORE : 0))
    return false;
  while (left > 0) {
    const ssize_t n = ::sendfile(to, file.raw(), nullptr, std::min(left, kPieceBytes));
    if (n <= 0) return false;
    left -= static_cast<std::size_t>(n);
  }
  return true;
}

int run(int argc, char** argv) {
  std::string root;
  std::string unix_path;
  std::uint16_t port = 0;
  CLI::App app{"serves the files of a folder by sendfile"};
  app.add_option("--root", root, "the folder")->required();
  app.add_option("--port", port, "where to listen, on 127.0.0.1")->required();
  app.add_option("--unix", unix_path, "and here");
  CLI11_PARSE(app, argc, argv);
  (void)std::signal(SIGPIPE, SIG_IGN);
  const Answer from_root = [root](int to, const Request& request) {
    return request.path.find("..") == std::string::npos && answer(to, root + request.path);
  };
  const UniqueFd listener = listen_on_loopback(port);
  if (!unix_path.empty())
    std::thread([at = listen_on_path(unix_path), from_root] { serve(at, from_root); }).detach();
  serve(listener, from_root);
}

}  // namespace
}  // namespace om::load

int main(int argc, char** argv) { return om::load::run(argc, argv); }
