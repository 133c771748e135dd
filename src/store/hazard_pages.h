// What clients read by the board (store/board.h): for each session that uses it a hazard page,
// <memory-dir>/hazards/<n>, a file of 4096 bytes that its client maps and writes. Hazard pointers
// (M. Michael, IEEE TPDS 2004), but that the daemon looks at them with pread(2): it never maps what
// a peer may shorten. It believes ids alone, and of those only what it asks about; a page that is
// short or makes no sense names nothing, and its owner harms himself.
//
// Two sides that look, each after it has said something that the other one looks at:
//   client   names the object in a word, then looks whether the board still shows it (or is dead)
//   daemon   takes the object off the board, then reads all pages: look()
// so at least one of them sees the other: the client has no lease, or the daemon pins the object
// for it. Once it is off the board and was looked for, nobody can begin to read it.
//
// What is found becomes a pin and, for a session that is open, a lease in the books (LeaseBook):
// counted, asked back, overdue as any other. It ends when the word changes: collect().
//
// The client's description of its page is locked (posix/range_lock.h) for as long as somebody has
// it open. So it is known of sessions that are over, and of those of an earlier daemon, whether
// anybody is left whose words count: probe(). Loop thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/board.h"
#include "base/flat_map.h"
#include "base/result.h"
#include "posix/unique_fd.h"
#include "store/lease_book.h"
#include "store/store.h"

namespace om::store {

class HazardPages {
 public:
  // Pages that are there are an earlier daemon's, whose board has ended by now: nobody can take
  // more leases than they name. Those whose owners are gone are removed.
  static Result<std::unique_ptr<HazardPages>> open(UniqueFd directory, LeaseBook& book);
  HazardPages(const HazardPages&) = delete;
  HazardPages& operator=(const HazardPages&) = delete;
  ~HazardPages() = default;

  // Recovery: this object has bytes still. Pins it if a page names it.
  void claim(ObjectId object);
  // Pages that nothing was claimed for are forgotten.
  void end_recovery();

  // So many pages are given out at most.
  void limit(std::size_t pages) { pages_max_ = pages; }
  // A page for this session: the description that its client is to be given.
  Result<UniqueFd> give(HolderId holder);
  // It has been given a descriptor of objects in memory. Before that it can read none, and its page
  // is not looked at.
  void may_read(HolderId holder);
  void close(HolderId holder);
  // How many sessions have one.
  [[nodiscard]] std::size_t given() const { return of_.size(); }

  // Reads the pages. What they name of `hidden` (objects that were taken off the board, and their
  // lengths) is pinned from now on, until it is named no more.
  void look(const FlatMap<std::uint64_t>& hidden);
  // Whether one of them pins it.
  [[nodiscard]] bool has(ObjectId object) const;
  // Lets go of what is not named any more. True: something was.
  bool collect();
  // Forgets the pages of those that are gone.
  void probe();
  // Calls `touched` for what was got by the board lately, as far as clients still know it, and
  // counts all.
  void take_touches(const std::function<void(ObjectId)>& touched);

  [[nodiscard]] std::size_t pages() const { return pages_.size(); }
  [[nodiscard]] std::uint64_t gets() const { return gets_; }
  [[nodiscard]] std::uint64_t looks() const { return looks_; }
  [[nodiscard]] std::uint64_t pins() const { return pins_; }  // so far

 private:
  struct Pin {
    std::size_t word = 0;  // that names it
    ObjectId object = 0;
  };
  struct Page {
    UniqueFd file;        // a description of ours
    HolderId holder = 0;  // 0: its session is over
    bool may_read = false;
    bool is_earlier = false;  // of an earlier daemon
    std::uint64_t gets = 0;   // that were counted
    std::vector<Pin> pins;
  };
  using Words = std::array<ObjectId, board::kHazards>;
  struct Named {
    std::uint64_t page = 0;
    std::size_t word = 0;
  };

  HazardPages(UniqueFd directory, LeaseBook& book)
      : directory_(std::move(directory)), book_(book) {}
  Result<void> recover();
  // nullopt: it cannot be read, which is not its owner's fault.
  static std::optional<Words> read(const Page& page);
  // The description that is locked.
  static Result<UniqueFd> open_for_peer(BorrowedFd page);
  void pin(Page& page, std::size_t word, ObjectId object, std::uint64_t bytes);
  void drop(Page& page, std::size_t index);
  void remove(std::uint64_t number);

  UniqueFd directory_;
  LeaseBook& book_;
  std::size_t pages_max_ = 0;
  std::unordered_map<std::uint64_t, Page> pages_;  // by number
  std::unordered_map<HolderId, std::uint64_t> of_;
  std::uint64_t next_ = 1;
  std::unordered_multimap<ObjectId, Named> named_;  // during recovery
  std::uint64_t gets_ = 0, looks_ = 0, pins_ = 0;
};

}  // namespace om::store
