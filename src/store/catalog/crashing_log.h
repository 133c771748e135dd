// crashing_log.h: a journal directory in memory that can lose what was not synced. For tests.
//
// After power loss a file has what was synced, and of every later write either nothing, all, or a
// part of it; names that were not synced come or stay away as they like. After a kill everything is
// there, only the write that was interrupted may be short. die_after(n) makes the n-th operation
// from now the last one, half done.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "store/catalog/log_file.h"

namespace om::catalog {

class CrashingLogDirectory final : public LogDirectory {
 public:
  using Bytes = std::vector<std::byte>;
  struct Write {
    std::uint64_t offset;
    Bytes bytes;
  };
  struct Content {
    Bytes now;
    Bytes synced;
    std::vector<Write> unsynced;
  };

  explicit CrashingLogDirectory(std::uint64_t seed) : random_(seed) {}

  void die_after(std::uint64_t operations) { left_ = operations; }
  [[nodiscard]] bool dead() const { return dead_; }
  // The process is gone, what it had written is there.
  void kill() { revive(); }
  void lose_power() {
    std::map<std::string, std::shared_ptr<Content>> after = synced_names_;
    for (const auto& [name, content] : names_) {
      if (synced_names_.count(name) == 0 && random_() % 2 == 0) after[name] = content;
    }
    for (const auto& [name, content] : synced_names_) {
      if (names_.count(name) == 0 && random_() % 2 == 0) after.erase(name);
    }
    for (auto& [name, content] : after) {
      Bytes kept = content->synced;
      for (const Write& write : content->unsynced) {
        const auto fate = random_() % 3;
        if (fate == 0) continue;
        const std::size_t part = fate == 1 ? write.bytes.size() : random_() % write.bytes.size();
        put(kept, write.offset, {write.bytes.data(), part});
      }
      content->now = content->synced = std::move(kept);
      content->unsynced.clear();
    }
    names_ = synced_names_ = after;
    revive();
  }
  std::map<std::string, std::shared_ptr<Content>>& names() { return names_; }

  Result<std::unique_ptr<LogFile>> create(const std::string& name) override {
    if (!step()) return died();
    auto content = std::make_shared<Content>();
    names_[name] = content;
    return std::unique_ptr<LogFile>(std::make_unique<File>(*this, std::move(content)));
  }
  Result<std::unique_ptr<LogFile>> open(const std::string& name) override {
    if (names_.count(name) == 0) return Error{Errc::kNotFound, 0, name};
    return std::unique_ptr<LogFile>(std::make_unique<File>(*this, names_[name]));
  }
  Result<std::vector<std::string>> list() override {
    std::vector<std::string> list;
    for (const auto& [name, content] : names_) list.push_back(name);
    return list;
  }
  Result<void> remove(const std::string& name) override {
    if (!step()) return died();
    names_.erase(name);
    return {};
  }
  Result<void> sync() override {
    if (!step()) return died();
    synced_names_ = names_;
    return {};
  }
  bool fail_writes = false;
  bool fail_one_write = false;  // the next one
  bool fail_syncs = false;
  std::uint64_t writes = 0;  // so far, those that failed too

 private:
  class File final : public LogFile {
   public:
    File(CrashingLogDirectory& directory, std::shared_ptr<Content> content)
        : directory_(directory), content_(std::move(content)) {}
    Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
      if (directory_.dead_) return died();
      ++directory_.writes;
      const bool full = std::exchange(directory_.fail_one_write, false) || directory_.fail_writes;
      const bool whole = !full && directory_.step();
      const std::size_t n = whole ? bytes.size() : directory_.random_() % bytes.size();
      put(content_->now, offset, bytes.first(n));
      content_->unsynced.push_back({offset, Bytes(bytes.begin(), bytes.begin() + n)});
      if (n == 0) content_->unsynced.pop_back();
      if (full) return Error{Errc::kNoSpace, 0, "full"};
      if (!whole) return died();
      return {};
    }
    Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> bytes) override {
      if (offset >= content_->now.size()) return std::size_t{0};
      const std::size_t n = std::min<std::size_t>(bytes.size(), content_->now.size() - offset);
      std::memcpy(bytes.data(), content_->now.data() + offset, n);
      return n;
    }
    Result<void> sync() override {
      if (directory_.fail_syncs) return Error{Errc::kSystem, 5, "sync"};
      if (!directory_.step()) return died();
      content_->synced = content_->now;
      content_->unsynced.clear();
      return {};
    }
    Result<void> reserve(std::uint64_t /*offset*/, std::uint64_t /*bytes*/) override {
      if (directory_.fail_writes) return Error{Errc::kNoSpace, 0, "full"};
      return {};
    }
    Result<std::uint64_t> size() override { return std::uint64_t{content_->now.size()}; }

   private:
    CrashingLogDirectory& directory_;
    std::shared_ptr<Content> content_;
  };

  static Error died() { return {Errc::kSystem, 0, "the process is dead"}; }
  static void put(Bytes& to, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    if (to.size() < offset + bytes.size()) to.resize(offset + bytes.size());
    std::memcpy(to.data() + offset, bytes.data(), bytes.size());
  }
  bool step() {
    if (dead_) return false;
    if (left_ != 0 && --left_ == 0) dead_ = true;
    return !dead_;
  }
  void revive() {
    dead_ = false;
    left_ = 0;
    fail_writes = fail_one_write = fail_syncs = false;
  }

  std::mt19937_64 random_;
  std::map<std::string, std::shared_ptr<Content>> names_;
  std::map<std::string, std::shared_ptr<Content>> synced_names_;
  std::uint64_t left_ = 0;
  bool dead_ = false;
};

}  // namespace om::catalog
