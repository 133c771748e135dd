// A small origin that hands its bodies to a cache on the same machine without sending them: it
// writes them into objmapper and answers with the key, in the manner of X-Accel-Redirect and
// X-Sendfile.
//
//   example_origin [--listen 127.0.0.1:8081 | --listen /run/origin.sock] [--files FOLDER]
//                  [--objmapper SOCKET] [--prefix KEYS]
//
//   request     X-Objmapper-Handoff: KEYS       from the cache: you may write objects whose keys
//   begin so answer      X-Objmapper-Object: KEY         instead of a body (Content-Length: 0); the
//   status and all
//               X-Objmapper-Length: BYTES       other headers are those of the object; the length
//               where
//                                               it is known
//   request     X-Objmapper-Handoff: no         the object was gone: answer in the normal way
//
// Without objmapper, without the header, and for parts of a body (Range) it is an origin like any
// other. In VCL, on the side of the cache: objmapper.director(), allow_handoff(). In this program
// handoff.h is the part to take along; body.h is what there is to serve; this file is HTTP
// (cpp-httplib, Debian's libcpp-httplib-dev). GET /stats says how often which way was taken.
#include <httplib.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <string>
#include <thread>

#include "body.h"
#include "handoff.h"

namespace origin {
namespace {

struct Arguments {
  std::string listen = "127.0.0.1:8081";
  std::string files;
  Handoff::Options handoff;
};

std::optional<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    std::string* const value = name == "--listen"      ? &arguments.listen
                               : name == "--files"     ? &arguments.files
                               : name == "--objmapper" ? &arguments.handoff.socket
                               : name == "--prefix"    ? &arguments.handoff.prefix
                                                       : nullptr;
    if (value == nullptr) return std::nullopt;
    *value = argv[i + 1];
  }
  if (argc % 2 == 0 || arguments.listen.empty()) return std::nullopt;
  return arguments;
}

std::optional<std::uint64_t> number(const std::string& text) {
  if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::strtoull(text.c_str(), nullptr, 10);
}

class Site {
 public:
  explicit Site(const Arguments& arguments)
      : files_(arguments.files), handoff_(arguments.handoff, counters_) {}

  void serve(httplib::Server& server) {
    server.Get(R"(/files/(.+))",
               [this](const httplib::Request& request, httplib::Response& answer) {
                 give(request, answer, open_file(files_, request.matches[1]));
               });
    server.Get(R"(/generated/(\d+))",
               [this](const httplib::Request& request, httplib::Response& answer) {
                 give(request, answer, generated(request));
               });
    server.Get("/stats", [this](const httplib::Request&, httplib::Response& answer) {
      answer.set_content(stats(), "application/json");
    });
  }

 private:
  static std::optional<Resource> generated(const httplib::Request& request) {
    const auto length = number(request.matches[1]);
    if (!length) return std::nullopt;
    Generated wanted;
    wanted.length = *length;
    wanted.bytes_per_second = number(request.get_param_value("rate")).value_or(0);
    wanted.says_length = request.get_param_value("length") != "no";
    wanted.fail_at = number(request.get_param_value("fail_at"));
    return generate(wanted);
  }

  void give(const httplib::Request& request, httplib::Response& answer,
            const std::optional<Resource>& found) {
    if (!found) {
      answer.status = 404;
      answer.set_content("There is nothing here.\n", "text/plain");
      return;
    }
    const std::string etag = "\"" + found->etag + "\"";
    answer.set_header("ETag", etag);
    answer.set_header("Cache-Control", "max-age=3600");
    if (request.get_header_value("If-None-Match") == etag) {
      answer.status = 304;
      return;
    }
    // A part of a body is not worth an object, and a HEAD has none.
    if (request.method == "GET" && request.ranges.empty()) {
      const auto handed = handoff_.hand_over(request.get_header_value("X-Objmapper-Handoff"),
                                             request.target, *found);
      if (handed) {
        answer.set_header("Content-Type", found->content_type);
        answer.set_header("X-Objmapper-Object", handed->key);
        if (handed->length)
          answer.set_header("X-Objmapper-Length", std::to_string(*handed->length));
        return;
      }
    }
    ++counters_.answered;
    const auto write = [body = found->body, buffer = std::make_shared<std::vector<std::byte>>(),
                        since = std::chrono::steady_clock::now()](
                           std::size_t offset, std::size_t length, httplib::DataSink& sink) {
      buffer->resize(std::size_t{256} << 10);
      const auto got =
          body->read(offset, std::span(*buffer).first(std::min(length, buffer->size())), since);
      if (!got) return false;  // ends the connection: the cache sees a body that is too short
      if (*got == 0) {
        if (sink.done) sink.done();
        return true;
      }
      return sink.write(reinterpret_cast<const char*>(buffer->data()), *got);
    };
    if (found->length == 0) {
      answer.set_content("", found->content_type);
    } else if (found->length) {
      answer.set_content_provider(*found->length, found->content_type, write);
    } else {
      answer.set_chunked_content_provider(
          found->content_type, [write](std::size_t offset, httplib::DataSink& sink) {
            return write(offset, std::numeric_limits<std::size_t>::max(), sink);
          });
    }
  }

  std::string stats() const {
    const auto item = [](const char* name, const std::atomic<std::uint64_t>& value) {
      return std::string("\"") + name + "\": " + std::to_string(value.load());
    };
    return "{" + item("answered", counters_.answered) + ", " +
           item("handed_over", counters_.handed_over) + ", " + item("reused", counters_.reused) +
           ", " + item("followed", counters_.followed) + ", " +
           item("not_possible", counters_.not_possible) + ", " +
           item("failed_midway", counters_.failed_midway) + "}\n";
  }

  std::string files_;
  Counters counters_;
  Handoff handoff_;
};

// "/path" is a Unix socket; ":0" takes any port. The address that it is, or nullopt.
std::optional<std::string> bind(httplib::Server& server, const std::string& listen) {
  if (listen.starts_with('/')) {
    struct stat status {};
    if (::lstat(listen.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) ::unlink(listen.c_str());
    server.set_address_family(AF_UNIX);
    if (!server.bind_to_port(listen, 80)) return std::nullopt;
    // Varnish runs as somebody else. Who may reach it is up to the folder.
    ::chmod(listen.c_str(), 0666);
    return listen;
  }
  const std::size_t colon = listen.rfind(':');
  const auto port = number(colon == std::string::npos ? "" : listen.substr(colon + 1));
  if (!port || *port > 65535) return std::nullopt;
  const std::string host = colon == 0 ? "127.0.0.1" : listen.substr(0, colon);
  const int bound = *port == 0 ? server.bind_to_any_port(host)
                    : server.bind_to_port(host, static_cast<int>(*port)) ? static_cast<int>(*port)
                                                                         : -1;
  if (bound < 0) return std::nullopt;
  return host + ":" + std::to_string(bound);
}

int run(const Arguments& arguments) {
  // Before there are threads, so that all of them leave these to sigwait().
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  (void)std::signal(SIGPIPE, SIG_IGN);

  Site site(arguments);
  httplib::Server server;
  // A connection that Varnish keeps occupies a thread of cpp-httplib.
  server.new_task_queue = [] { return new httplib::ThreadPool(64); };
  server.set_keep_alive_max_count(std::numeric_limits<std::size_t>::max());
  server.set_tcp_nodelay(true);
  site.serve(server);
  const auto where = bind(server, arguments.listen);
  if (!where) {
    std::cerr << "example_origin: cannot listen on " << arguments.listen << std::endl;
    return 1;
  }
  std::thread serving([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::cout << "listens on " << *where << std::endl;
  int signal = 0;
  ::sigwait(&signals, &signal);
  server.stop();
  serving.join();
  if (where->starts_with('/')) ::unlink(where->c_str());
  return 0;
}

}  // namespace
}  // namespace origin

int main(int argc, char** argv) {
  const auto arguments = origin::parse(argc, argv);
  if (!arguments) {
    std::cerr << "usage: example_origin [--listen HOST:PORT|/SOCKET] [--files FOLDER] "
                 "[--objmapper SOCKET] [--prefix KEYS]"
              << std::endl;
    return 2;
  }
  return origin::run(*arguments);
}
