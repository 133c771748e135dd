#include "store/hazard_pages.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <span>
#include <system_error>

#include "posix/file.h"
#include "posix/range_lock.h"

namespace om::store {

namespace {

constexpr std::uint64_t kOwnerByte = 0;
// A page that cannot be read may name anything: what is pinned because of that stays until the page
// goes.
constexpr std::size_t kUnknownWord = board::kHazards;
// More than anybody gets between two looks: the count is its client's word.
constexpr std::uint64_t kGetsAtOnceMax = std::uint64_t{1} << 24;

// What was stored before is seen by others before what is read after, also by a system call. Not
// std::atomic_thread_fence(): g++ has a warning for that under ThreadSanitizer.
void full_fence() { __sync_synchronize(); }

std::optional<std::uint64_t> page_number(const std::string& name) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return number;
}

}  // namespace

Result<std::unique_ptr<HazardPages>> HazardPages::open(UniqueFd directory, LeaseBook& book) {
  std::unique_ptr<HazardPages> pages(new HazardPages(std::move(directory), book));
  OM_TRY(pages->recover());
  return pages;
}

Result<void> HazardPages::recover() {
  full_fence();  // the earlier board has ended
  for (const auto& name : OM_TRY(list_directory(directory_.borrow()))) {
    const auto number = page_number(name);
    if (!number) continue;
    next_ = std::max(next_, *number + 1);
    Page page;
    page.file = OM_TRY(open_at(directory_.borrow(), name, O_RDWR));
    page.may_read = page.is_earlier = true;
    if (!OM_TRY(range_is_locked(page.file.borrow(), kOwnerByte, 1))) {
      OM_TRY(remove_at(directory_.borrow(), name));
      continue;
    }
    const auto words = read(page);
    if (!words) return Error{Errc::kSystem, EIO, "read the hazard page " + name};
    for (std::size_t word = 0; word < words->size(); ++word)
      if ((*words)[word] != 0) named_.emplace((*words)[word], Named{*number, word});
    pages_.emplace(*number, std::move(page));
  }
  return {};
}

void HazardPages::claim(ObjectId object) {
  if (named_.empty()) return;
  const auto named = named_.equal_range(object);
  for (auto one = named.first; one != named.second; ++one)
    pin(pages_.at(one->second.page), one->second.word, object, 0);
  named_.erase(named.first, named.second);
}

void HazardPages::end_recovery() {
  named_.clear();
  std::erase_if(pages_, [this](const auto& entry) {
    if (!entry.second.pins.empty()) return false;
    remove(entry.first);
    return true;
  });
}

void HazardPages::remove(std::uint64_t number) {
  (void)remove_at(directory_.borrow(), std::to_string(number));
}

Result<UniqueFd> HazardPages::open_for_peer(BorrowedFd page) {
  // A hole would be SIGBUS to its client where the file system is full.
  OM_TRY(allocate(page, 0, sizeof(board::HazardPage)));
  auto theirs = OM_TRY(reopen(page, O_RDWR));
  if (!OM_TRY(lock_range_shared(theirs.borrow(), kOwnerByte, 1)))
    return Error{Errc::kBusy, 0, "a new hazard page is locked by somebody else"};
  return theirs;
}

Result<UniqueFd> HazardPages::give(HolderId holder) {
  if (!book_.live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  if (of_.count(holder) != 0) return Error{Errc::kExists, 0, "it has a hazard page"};
  if (pages_.size() >= pages_max_)
    return Error{Errc::kQuota, 0, "no more hazard pages are given out"};
  const std::uint64_t number = next_++;
  Page page;
  page.file =
      OM_TRY(open_at(directory_.borrow(), std::to_string(number), O_RDWR | O_CREAT | O_EXCL));
  auto theirs = open_for_peer(page.file.borrow());
  if (!theirs) {
    remove(number);
    return theirs;
  }
  page.holder = holder;
  of_.emplace(holder, number);
  pages_.emplace(number, std::move(page));
  return theirs;
}

void HazardPages::may_read(HolderId holder) {
  if (const auto of = of_.find(holder); of != of_.end()) pages_.at(of->second).may_read = true;
}

void HazardPages::close(HolderId holder) {
  const auto of = of_.find(holder);
  if (of == of_.end()) return;
  const std::uint64_t number = of->second;
  of_.erase(of);
  Page& page = pages_.at(number);
  page.holder = 0;
  if (page.may_read) return;
  remove(number);
  pages_.erase(number);
}

std::optional<HazardPages::Words> HazardPages::read(const Page& page) {
  Words words{};  // where it ends early
  if (!read_some(page.file.borrow(), 0, std::as_writable_bytes(std::span(words))))
    return std::nullopt;
  // Whoever has let go of an object has read it before, and others write there from now on.
  full_fence();
  return words;
}

void HazardPages::pin(Page& page, std::size_t word, ObjectId object, std::uint64_t bytes) {
  page.pins.push_back({word, object});
  book_.pin(object);
  if (page.holder != 0 && word != kUnknownWord)
    book_.note(page.holder, board::kLeases + word, object, bytes);
  ++pins_;
}

// The last pin of an object gives its bytes back.
void HazardPages::drop(Page& page, std::size_t index) {
  const Pin gone = page.pins[index];
  page.pins[index] = page.pins.back();
  page.pins.pop_back();
  if (page.holder != 0 && gone.word != kUnknownWord)
    book_.strike(page.holder, board::kLeases + gone.word);
  book_.unpin(gone.object);
}

void HazardPages::look(const FlatMap<std::uint64_t>& hidden) {
  full_fence();
  ++looks_;
  for (auto& [number, page] : pages_) {
    if (!page.may_read) continue;
    const auto is_pinned = [&of = page](std::size_t word, ObjectId object) {
      return std::ranges::any_of(
          of.pins, [&](const Pin& pin) { return pin.word == word && pin.object == object; });
    };
    const auto words = read(page);
    if (!words) {
      hidden.for_each([&, &of = page](ObjectId object, std::uint64_t bytes) {
        if (!is_pinned(kUnknownWord, object)) pin(of, kUnknownWord, object, bytes);
      });
      continue;
    }
    for (std::size_t at = page.pins.size(); at-- > 0;) {
      const Pin& pinned = page.pins[at];
      // A word is one lease: what it named before goes before it names something else.
      if (pinned.word != kUnknownWord && (*words)[pinned.word] != pinned.object) drop(page, at);
    }
    for (std::size_t word = 0; word < words->size(); ++word) {
      const ObjectId object = (*words)[word];
      if (object == 0) continue;
      const auto* const found = hidden.find(object);
      if (found != nullptr && !is_pinned(word, object)) pin(page, word, object, found->second);
    }
  }
}

bool HazardPages::has(ObjectId object) const {
  return std::ranges::any_of(pages_, [object](const auto& page) {
    return std::ranges::any_of(page.second.pins,
                               [object](const Pin& pin) { return pin.object == object; });
  });
}

bool HazardPages::collect() {
  bool any = false;
  for (auto& [number, page] : pages_) {
    if (page.pins.empty()) continue;
    const auto words = read(page);
    if (!words) continue;
    for (std::size_t at = page.pins.size(); at-- > 0;) {
      const Pin& pinned = page.pins[at];
      if (pinned.word == kUnknownWord || (*words)[pinned.word] == pinned.object) continue;
      drop(page, at);
      any = true;
    }
  }
  return any;
}

void HazardPages::probe() {
  for (auto entry = pages_.begin(); entry != pages_.end();) {
    Page& page = entry->second;
    const auto gone = [&] {
      if (page.holder != 0) return false;
      // Nobody believes an earlier daemon's board: these name nothing more.
      if (page.is_earlier && page.pins.empty()) return true;
      const auto locked = range_is_locked(page.file.borrow(), kOwnerByte, 1);
      return locked && !*locked;
    };
    if (!gone()) {
      ++entry;
      continue;
    }
    while (!page.pins.empty()) drop(page, page.pins.size() - 1);
    remove(entry->first);
    entry = pages_.erase(entry);
  }
}

void HazardPages::take_touches(const std::function<void(ObjectId)>& touched) {
  for (auto& [number, page] : pages_) {
    if (!page.may_read) continue;
    std::uint64_t gets = 0;
    const auto bytes = std::as_writable_bytes(std::span(&gets, 1));
    const auto got = read_some(page.file.borrow(), offsetof(board::HazardPage, gets), bytes);
    if (!got || *got != bytes.size() || gets == page.gets) continue;
    const std::uint64_t before = std::exchange(page.gets, gets);
    if (gets < before) continue;
    gets_ += std::min(gets - before, kGetsAtOnceMax);
    std::array<ObjectId, board::kTouches> objects{};
    if (!read_some(page.file.borrow(), offsetof(board::HazardPage, touched),
                   std::as_writable_bytes(std::span(objects))))
      continue;
    for (std::uint64_t n = gets - std::min<std::uint64_t>(gets - before, objects.size()); n != gets;
         ++n)
      touched(objects[n % objects.size()]);
  }
}

}  // namespace om::store
