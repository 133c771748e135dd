#include "store/catalog/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "posix/file.h"
#include "posix/unique_fd.h"

namespace om::catalog {
namespace {

class PosixLogFile final : public LogFile {
 public:
  explicit PosixLogFile(UniqueFd file) : file_(std::move(file)) {}
  Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    return write_exactly(file_.borrow(), offset, bytes);
  }
  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> bytes) override {
    return read_some(file_.borrow(), offset, bytes);
  }
  Result<void> sync() override { return sync_data(file_.borrow()); }
  Result<void> reserve(std::uint64_t offset, std::uint64_t bytes) override {
    while (::fallocate(file_.raw(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes)) != 0) {
      if (errno == EINTR) continue;
      // A file system without it finds out at the write.
      if (errno == EOPNOTSUPP || errno == ENOSYS) return {};
      return file_error("reserve space for the journal");
    }
    return {};
  }
  Result<std::uint64_t> size() override { return file_size(file_.borrow()); }

 private:
  UniqueFd file_;
};

class PosixLogDirectory final : public LogDirectory {
 public:
  explicit PosixLogDirectory(UniqueFd directory) : directory_(std::move(directory)) {}
  Result<std::unique_ptr<LogFile>> create(const std::string& name) override {
    auto file = OM_TRY(open_at(directory_.borrow(), name, O_RDWR | O_CREAT | O_TRUNC));
    return std::unique_ptr<LogFile>(std::make_unique<PosixLogFile>(std::move(file)));
  }
  Result<std::unique_ptr<LogFile>> open(const std::string& name) override {
    auto file = OM_TRY(open_at(directory_.borrow(), name, O_RDWR));
    return std::unique_ptr<LogFile>(std::make_unique<PosixLogFile>(std::move(file)));
  }
  Result<std::vector<std::string>> list() override { return list_directory(directory_.borrow()); }
  Result<void> remove(const std::string& name) override {
    return remove_at(directory_.borrow(), name);
  }
  Result<void> sync() override {
    if (::fsync(directory_.raw()) != 0) return file_error("fsync of the journal's directory");
    return {};
  }

 private:
  UniqueFd directory_;
};

}  // namespace

Result<std::unique_ptr<LogDirectory>> open_log_directory(const std::string& path) {
  auto directory = OM_TRY(open_directory(path));
  return std::unique_ptr<LogDirectory>(std::make_unique<PosixLogDirectory>(std::move(directory)));
}

}  // namespace om::catalog
