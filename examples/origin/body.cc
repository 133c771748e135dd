#include "body.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

namespace origin {
namespace {

om::Error failed(std::string what) { return {om::Errc::kSystem, errno, std::move(what)}; }

class File final : public Body {
 public:
  explicit File(om::Fd file) : file_(std::move(file)) {}
  om::Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into,
                               std::chrono::steady_clock::time_point /*since*/) const override {
    while (true) {
      const ssize_t got =
          ::pread(file_.raw(), into.data(), into.size(), static_cast<off_t>(offset));
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) return failed("read");
    }
  }

 private:
  om::Fd file_;
};

class Numbers final : public Body {
 public:
  explicit Numbers(const Generated& wanted) : wanted_(wanted) {}
  om::Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into,
                               std::chrono::steady_clock::time_point since) const override {
    std::uint64_t end = wanted_.length;
    if (wanted_.fail_at && *wanted_.fail_at <= end) {
      if (offset >= *wanted_.fail_at) return om::Error{om::Errc::kSystem, EIO, "as asked for"};
      end = *wanted_.fail_at;
    }
    if (offset >= end) return std::size_t{0};
    std::size_t count = std::min<std::uint64_t>(into.size(), end - offset);
    if (wanted_.bytes_per_second != 0) {
      // A tenth of a second's worth at a time, each when its time has come.
      count =
          std::min<std::uint64_t>(count, std::max<std::uint64_t>(1, wanted_.bytes_per_second / 10));
      std::this_thread::sleep_until(
          since + std::chrono::milliseconds(offset * 1000 / wanted_.bytes_per_second));
    }
    fill(offset, into.first(count));
    return count;
  }

 private:
  static void fill(std::uint64_t offset, std::span<std::byte> into) {
    std::size_t done = 0;
    // The rest of a number that has begun before.
    for (; done < into.size() && (offset + done) % 8 != 0; ++done)
      into[done] = byte_at(offset + done);
    // A cache line at a time, which is what makes this as cheap as copying.
    for (std::array<std::uint64_t, 8> line{}; done + sizeof line <= into.size();
         done += sizeof line) {
      for (std::size_t i = 0; i < line.size(); ++i) line[i] = offset + done + 8 * i;
      std::memcpy(into.data() + done, line.data(), sizeof line);
    }
    for (; done + 8 <= into.size(); done += 8) {
      const std::uint64_t number = offset + done;
      std::memcpy(into.data() + done, &number, 8);
    }
    for (; done < into.size(); ++done) into[done] = byte_at(offset + done);
  }
  static std::byte byte_at(std::uint64_t offset) {
    return static_cast<std::byte>((offset & ~std::uint64_t{7}) >> (offset % 8 * 8));
  }

  Generated wanted_;
};

std::string type_of(std::string_view path) {
  struct Type {
    std::string_view suffix;
    const char* type;
  };
  static constexpr std::array<Type, 9> kTypes{{{".html", "text/html"},
                                               {".txt", "text/plain"},
                                               {".css", "text/css"},
                                               {".js", "text/javascript"},
                                               {".json", "application/json"},
                                               {".svg", "image/svg+xml"},
                                               {".png", "image/png"},
                                               {".jpg", "image/jpeg"},
                                               {".mp4", "video/mp4"}}};
  for (const Type& type : kTypes)
    if (path.ends_with(type.suffix)) return type.type;
  return "application/octet-stream";
}

bool leads_out(std::string_view path) {
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    if (path.substr(0, slash) == "..") return true;
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return false;
}

}  // namespace

std::optional<Resource> open_file(const std::string& folder, const std::string& path) {
  if (folder.empty() || leads_out(path) || path.find('\0') != std::string::npos)
    return std::nullopt;
  om::Fd file = om::Fd::adopt(::open((folder + "/" + path).c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.raw(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  Resource resource;
  resource.body = std::make_shared<File>(std::move(file));
  resource.length = static_cast<std::uint64_t>(status.st_size);
  resource.content_type = type_of(path);
  resource.etag = std::to_string(status.st_ino) + "-" + std::to_string(status.st_size) + "-" +
                  std::to_string(status.st_mtim.tv_sec) + "." +
                  std::to_string(status.st_mtim.tv_nsec);
  return resource;
}

Resource generate(const Generated& wanted) {
  Resource resource;
  resource.body = std::make_shared<Numbers>(wanted);
  if (wanted.says_length) resource.length = wanted.length;
  resource.content_type = "application/octet-stream";
  resource.etag = "numbers-" + std::to_string(wanted.length);
  return resource;
}

}  // namespace origin
