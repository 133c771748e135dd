// A page of the list of what regions hold. All records of a region are read for it, which takes
// seconds where there are millions: on a thread of its own, and with a memory of no more than the
// page.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store {

class RegionListing {
 public:
  // Of keys greater than `after` that begin with `prefix`, the first `limit`.
  RegionListing(std::string_view prefix, std::string_view after, std::size_t limit)
      : prefix_(prefix), after_(after), limit_(limit) {}
  void add_region(std::string_view owner, std::string file) {
    regions_.push_back({"varnish:" + std::string(owner) + "/", std::move(file)});
  }
  // Reads the files, which are in that directory. One that is gone, or not formatted yet, holds
  // nothing. Asks before each file and each object whether it is over: then it stops there.
  void read(BorrowedFd directory, const std::function<bool()>& is_over);
  // Once.
  ListPage take_page();

 private:
  struct Region {
    std::string stem;  // of its keys
    std::string file;
  };
  [[nodiscard]] bool may_have_some(std::string_view stem) const;
  [[nodiscard]] bool is_wanted(std::string_view key) const;
  void keep(ListItem item);

  const std::string prefix_;
  const std::string after_;
  const std::size_t limit_;
  std::vector<Region> regions_;
  // One more than the page has room for: whether there are more. A heap, the last key in front.
  std::vector<ListItem> kept_;
};

}  // namespace om::store
