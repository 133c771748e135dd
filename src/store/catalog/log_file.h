// log_file.h: the few file operations that the journal makes, behind an interface, so that a test
// can lose what was not synced.
//
// Threads: write_at() and sync() may run at the same time on two threads, as may read_at().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace om::catalog {

class LogFile {
 public:
  LogFile() = default;
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;
  virtual ~LogFile() = default;
  // All of it, or an error; then an unknown part of it may be there.
  virtual Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  // As much as there is.
  virtual Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> bytes) = 0;
  // What was written before the call survives power loss. After a failure nobody knows what does.
  virtual Result<void> sync() = 0;
  // Blocks for these bytes, without changing the size: later writes find space. What has them
  // already is better left out, since each of them would be looked at.
  virtual Result<void> reserve(std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual Result<std::uint64_t> size() = 0;
};

class LogDirectory {
 public:
  LogDirectory() = default;
  LogDirectory(const LogDirectory&) = delete;
  LogDirectory& operator=(const LogDirectory&) = delete;
  virtual ~LogDirectory() = default;
  // An empty file, also when there was one of that name.
  virtual Result<std::unique_ptr<LogFile>> create(const std::string& name) = 0;
  virtual Result<std::unique_ptr<LogFile>> open(const std::string& name) = 0;
  virtual Result<std::vector<std::string>> list() = 0;
  virtual Result<void> remove(const std::string& name) = 0;
  // Names that were created or removed stay so.
  virtual Result<void> sync() = 0;
};

// Of the operating system. Made where it is missing.
Result<std::unique_ptr<LogDirectory>> open_log_directory(const std::string& path);

}  // namespace om::catalog
