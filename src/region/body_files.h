// body_files.h: the bodies of a region that lie in files, in the directory that the daemon granted.
//
//   <xx>/<16 hex digits>   one body, one file, made under a number that is never used again; xx are
//                          its last two digits
//
//   being written   create() -> write(), grow() -> finish(), or discard()
//   finished        its bytes never change; pin() opens it for as long as somebody reads
//   gone            remove(): unlinked as a whole, never overwritten, never punched, because its
//                   pages may be on their way out of a socket
//
// Space is counted in whole blocks, before it is taken; an unlinked file counts until the last who
// has it open lets go. Descriptors of files that nobody reads are kept up to a budget, those that
// were read least recently are closed, and opened again by name when a body is asked for; the file
// is then checked against inode and length, so that none is taken for another.
//
// A directory whose file system failed is left alone for a while. Where the process has no
// descriptors left, those of files that nobody reads are given up first. Any thread; one mutex for
// the table of descriptors, held for no system call. Files that belong to no object are removed by
// a thread of its own: there may be as many as there were objects.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "region/format.h"
#include "region/record.h"

namespace om::region {

class BodyFiles;

// An open one, closed with the last shared_ptr to it.
class BodyFile {
 public:
  BodyFile(BodyFiles& files, UniqueFd fd, FileRef ref) noexcept
      : files_(files), fd_(std::move(fd)), ref_(ref) {}
  BodyFile(const BodyFile&) = delete;
  BodyFile& operator=(const BodyFile&) = delete;
  ~BodyFile();
  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  // Its length is right once it is finished.
  [[nodiscard]] const FileRef& ref() const { return ref_; }

 private:
  friend class BodyFiles;
  BodyFiles& files_;
  UniqueFd fd_;
  FileRef ref_;
  std::uint64_t reserved_ = 0;               // while it is being written: bytes it may have
  std::atomic<std::uint64_t> give_back_{0};  // unlinked: this much is free when it is closed
};

class BodyFiles {
 public:
  struct Options {
    std::uint64_t capacity = 0;
    std::size_t descriptors_max = 1024;  // of files that nobody reads at the moment
  };
  struct Counters {
    std::atomic<std::uint64_t> created{0};
    std::atomic<std::uint64_t> written_bytes{0};
    std::atomic<std::uint64_t> reopened{0};
    std::atomic<std::uint64_t> write_errors{0};
    std::atomic<std::uint64_t> read_errors{0};
    std::atomic<std::uint64_t> orphans{0};
  };

  static Result<std::unique_ptr<BodyFiles>> open(UniqueFd directory, Options options);
  BodyFiles(const BodyFiles&) = delete;
  BodyFiles& operator=(const BodyFiles&) = delete;
  ~BodyFiles();

  // --- adoption: one thread, before any use
  // Where numbers are counted from now on: a word that outlives the process, in the region.
  void count_in(Word& next_number);
  // It is there, a file of that length, and the same inode.
  [[nodiscard]] bool check(const FileRef& ref) const;
  // After check(): counted as used. Once for each file.
  void keep(const FileRef& ref);
  // Removes every file of before that is not in `kept` (sorted), in the background: what create()
  // makes meanwhile has a higher number. The disk has more bytes than are counted until it is done;
  // it is faster than whoever writes.
  void remove_others(std::vector<std::uint64_t> kept);
  // Returns when it is done.
  void wait_until_removed();

  // --- writing: one thread for a file
  // Takes `bytes` of space, and sets blocks aside on the disk when they are more than are written
  // at once. kNoSpace: the capacity is used up (make room and try again), or the file system is
  // full; kUnavailable: it failed a moment ago.
  Result<std::shared_ptr<BodyFile>> create(std::uint64_t bytes);
  // It may have `bytes` in all from now on. Of both and of write(): kNoSpace is no end, try again.
  Result<void> grow(BodyFile& file, std::uint64_t bytes);
  Result<void> write(BodyFile& file, std::uint64_t offset, std::span<const std::byte> bytes);
  // It has this length for good; what was set aside beyond is given back.
  Result<void> finish(const std::shared_ptr<BodyFile>& file, std::uint64_t length);
  // It has become no body.
  void discard(BodyFile& file);

  // --- reading
  Result<std::shared_ptr<const BodyFile>> pin(const FileRef& ref);
  // Whoever has it pinned goes on reading. Idempotent only as far as the name goes: call it once.
  void remove(const FileRef& ref);

  [[nodiscard]] std::uint64_t capacity() const { return options_.capacity; }
  [[nodiscard]] std::uint64_t used_bytes() const { return used_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t files() const { return files_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t descriptors() const {
    return descriptors_.load(std::memory_order_relaxed);
  }
  // The file system is full, and making room was no use: it is left alone for a moment.
  void stays_full();
  // Whether create() would try at all.
  [[nodiscard]] bool usable() const;
  Counters& counters() { return counters_; }
  [[nodiscard]] BorrowedFd directory() const { return directory_.borrow(); }
  // Blocks of so much are not set aside: the write that follows at once says whether they are to be
  // had, and the file system need not note them as set aside first, then as written.
  static constexpr std::uint64_t kWrittenAtOnceBytes = std::uint64_t{256} << 10;
  // What a body of this length takes.
  static std::uint64_t blocks(std::uint64_t length);
  static std::string name_of(std::uint64_t number);

 private:
  friend class BodyFile;
  BodyFiles(UniqueFd directory, Options options)
      : directory_(std::move(directory)), options_(options) {}
  bool reserve(std::uint64_t bytes);
  void release(std::uint64_t bytes);
  Result<void> set_aside(const BodyFile& file, std::uint64_t from, std::uint64_t to);
  Error failed(Error error);
  Result<UniqueFd> open_new(std::uint64_t number);
  void remember(const std::shared_ptr<BodyFile>& file);
  // Closes half of the files that nobody reads. False: there was none.
  bool close_idle();
  // open(2), again when there was no descriptor and close_idle() had some.
  Result<UniqueFd> open_named(const std::string& name, int flags);
  // For reading: the very file.
  Result<UniqueFd> open_checked(const FileRef& ref);
  Result<std::vector<std::uint64_t>> list() const;
  void remove_all_but(const std::vector<std::uint64_t>& kept, std::uint64_t before);

  UniqueFd directory_;
  Options options_;
  Counters counters_;
  std::atomic<std::uint64_t> used_{0};
  std::atomic<std::uint64_t> files_{0};
  std::atomic<std::uint64_t> descriptors_{0};
  std::atomic<std::int64_t> leave_alone_until_ns_{0};
  Word own_next_{1};
  Word* next_ = &own_next_;

  struct Open {
    std::shared_ptr<BodyFile> file;
    std::list<std::uint64_t>::iterator place;
  };
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Open> open_;
  std::list<std::uint64_t> recent_;  // numbers, most recently read first

  std::atomic<bool> stopping_{false};
  std::thread remover_;  // last: it uses the rest
};

}  // namespace om::region
