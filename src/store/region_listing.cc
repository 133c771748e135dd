#include "store/region_listing.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "base/limits.h"
#include "posix/file.h"
#include "region/list.h"

namespace om::store {

namespace {

bool comes_before(const ListItem& a, const ListItem& b) { return a.key < b.key; }

}  // namespace

bool RegionListing::may_have_some(std::string_view stem) const {
  if (!stem.starts_with(prefix_) && !std::string_view(prefix_).starts_with(stem)) return false;
  // All of its keys are before what is asked for, or behind what has been found.
  if (stem < after_ && !std::string_view(after_).starts_with(stem)) return false;
  return kept_.size() <= limit_ || stem < kept_.front().key;
}

bool RegionListing::is_wanted(std::string_view key) const {
  return key.starts_with(prefix_) && key > after_ &&
         (kept_.size() <= limit_ || key < kept_.front().key);
}

void RegionListing::keep(ListItem item) {
  kept_.push_back(std::move(item));
  std::push_heap(kept_.begin(), kept_.end(), comes_before);
  if (kept_.size() <= limit_ + 1) return;
  std::pop_heap(kept_.begin(), kept_.end(), comes_before);
  kept_.pop_back();
}

void RegionListing::read(BorrowedFd directory, const std::function<bool()>& is_over) {
  for (const Region& one : regions_) {
    if (is_over()) return;
    if (!may_have_some(one.stem)) continue;
    const auto file = open_at(directory, one.file, O_RDONLY);
    if (!file) continue;
    (void)region::list_objects(file->borrow(), [&](const region::ListedObject& object) {
      if (is_over()) return false;
      std::string key = one.stem + std::to_string(object.vxid);
      if (!is_wanted(key)) return true;
      ListItem item;
      item.key = std::move(key);
      item.length = object.body_length;
      item.created_ns = static_cast<std::uint64_t>(std::max(0.0, object.timers.t_origin) * 1e9);
      item.url = std::string(object.host) + std::string(object.url);
      item.url.resize(std::min(item.url.size(), kKeyBytesMax));
      keep(std::move(item));
      return true;
    });
  }
}

ListPage RegionListing::take_page() {
  std::sort_heap(kept_.begin(), kept_.end(), comes_before);
  ListPage page;
  page.more = kept_.size() > limit_;
  if (page.more) kept_.pop_back();
  page.items = std::move(kept_);
  return page;
}

}  // namespace om::store
