// s3fifo.cc: three FIFO queues (Yang et al., SOSP 2023), accounted in bytes.
//
//   small   10 % of the bytes: what is new. Leaves at its end: to main if it was hit meanwhile, out
//           otherwise, and then its fingerprint is kept
//   main    what was hit. At its end: once more around while hits (0 to 3) last, each round costs
//           one; then out
//   ghosts  fingerprints of what small threw out, as many bytes' worth as main holds: what comes
//           back while it is remembered starts in main
//
// An object that is skipped goes around its own queue, hits unchanged.
#include <algorithm>
#include <array>
#include <vector>

#include "store/eviction/policy.h"
#include "store/eviction/table.h"

namespace om::eviction {
namespace {

constexpr unsigned kSmall = 0;
constexpr unsigned kMain = 1;
constexpr unsigned kHitsMax = 3;

// Fingerprints of 4 bytes in a table of a fixed number of sets, eight to a set; a set forgets its
// oldest. Each remembers when it came, in bytes thrown out since (4 KiB units): too old is gone.
class Ghosts {
 public:
  void set_window(std::uint64_t bytes) { window_ = bytes; }
  void add(std::uint64_t fingerprint, std::uint64_t bytes, std::size_t objects) {
    // Room for as many ghosts as there are objects.
    while (sets_.size() * kWays < objects + kWays) resize();
    clock_ += bytes;
    Set& set = sets_[mix(fingerprint) & (sets_.size() - 1)];
    Entry* oldest = set.data();
    for (Entry& entry : set) {
      if (age(entry) > age(*oldest)) oldest = &entry;
      if (entry.print == 0 || age(entry) * kUnit > window_) {
        oldest = &entry;
        break;
      }
    }
    *oldest = {print_of(fingerprint), now()};
  }
  bool take(std::uint64_t fingerprint) {
    if (sets_.empty()) return false;
    for (Entry& entry : sets_[mix(fingerprint) & (sets_.size() - 1)]) {
      if (entry.print != print_of(fingerprint)) continue;
      const bool remembered = age(entry) * kUnit <= window_;
      entry = {};
      return remembered;
    }
    return false;
  }
  [[nodiscard]] std::size_t memory_bytes() const { return sets_.size() * sizeof(Set); }

 private:
  static constexpr std::size_t kWays = 8;
  static constexpr std::uint64_t kUnit = 4096;
  struct Entry {
    std::uint32_t print = 0;
    std::uint32_t time = 0;
  };
  using Set = std::array<Entry, kWays>;
  static std::uint32_t print_of(std::uint64_t fingerprint) {
    return static_cast<std::uint32_t>(mix(fingerprint) >> 32) | 1U;
  }
  [[nodiscard]] std::uint32_t now() const { return static_cast<std::uint32_t>(clock_ / kUnit); }
  [[nodiscard]] std::uint64_t age(const Entry& entry) const {
    return static_cast<std::uint32_t>(now() - entry.time);
  }
  // What is remembered is forgotten: sets are chosen by their number. It happens a few times while
  // a store fills for the first time.
  void resize() { std::vector<Set>(std::max<std::size_t>(8, sets_.size() * 2)).swap(sets_); }

  std::vector<Set> sets_;
  std::uint64_t window_ = 0;
  std::uint64_t clock_ = 0;
};

class S3Fifo final : public Policy {
 public:
  explicit S3Fifo(std::uint64_t capacity) { set_capacity(capacity); }
  void insert(std::uint64_t id, std::uint64_t bytes, std::uint64_t fingerprint) override {
    erase(id);
    const SlotIndex index = table_.add(id);
    Slot& slot = table_.at(index);
    slot.bytes = bytes & ((std::uint64_t{1} << 48) - 1);
    slot.fingerprint = fingerprint;
    slot.queue = ghosts_.take(fingerprint) ? kMain : kSmall;
    queues_[slot.queue].push(table_, index);
  }
  void touch(std::uint64_t id) override {
    const SlotIndex index = table_.find(id);
    if (index == kNone) return;
    Slot& slot = table_.at(index);
    if (slot.hits < kHitsMax) slot.hits = (slot.hits + 1U) & 3U;
  }
  bool erase(std::uint64_t id) override {
    const SlotIndex index = table_.find(id);
    if (index == kNone) return false;
    drop(index);
    return true;
  }
  std::optional<Victim> evict(const Skip& skip) override {
    // Every object can go around main once for each hit, and is asked about at most once more.
    std::size_t skips_left = table_.size();
    std::size_t skipped[2] = {0, 0};
    while (table_.size() > 0 && skips_left > 0) {
      unsigned which = queues_[kSmall].bytes() > small_target_ ? kSmall : kMain;
      // A queue whose every object was to be skipped is left alone.
      if (queues_[which].size() <= skipped[which]) which = 1 - which;
      Queue& queue = queues_[which];
      if (queue.size() <= skipped[which]) return std::nullopt;
      const SlotIndex index = queue.oldest();
      Slot& slot = table_.at(index);
      if (slot.hits > 0) {
        queue.unlink(table_, index);
        slot.hits = (which == kSmall ? 0U : slot.hits - 1U) & 3U;
        slot.queue = kMain;
        queues_[kMain].push(table_, index);
        continue;
      }
      if (skip(slot.id)) {
        queue.unlink(table_, index);
        queue.push(table_, index);
        ++skipped[which];
        --skips_left;
        continue;
      }
      const Victim victim{slot.id, slot.bytes};
      if (which == kSmall) ghosts_.add(slot.fingerprint, slot.bytes, table_.size());
      drop(index);
      return victim;
    }
    return std::nullopt;
  }
  void set_capacity(std::uint64_t bytes) override {
    small_target_ = bytes / 10;
    ghosts_.set_window(bytes - small_target_);
  }
  [[nodiscard]] bool contains(std::uint64_t id) const override { return table_.find(id) != kNone; }
  [[nodiscard]] std::uint64_t bytes() const override {
    return queues_[kSmall].bytes() + queues_[kMain].bytes();
  }
  [[nodiscard]] std::size_t objects() const override { return table_.size(); }
  [[nodiscard]] std::size_t memory_bytes() const override {
    return table_.memory_bytes() + ghosts_.memory_bytes();
  }
  [[nodiscard]] std::string_view name() const override { return "s3fifo"; }

 private:
  void drop(SlotIndex index) {
    queues_[table_.at(index).queue].unlink(table_, index);
    table_.remove(index);
  }
  Table table_;
  Queue queues_[2];
  Ghosts ghosts_;
  std::uint64_t small_target_ = 0;
};

}  // namespace

std::unique_ptr<Policy> make_s3fifo(std::uint64_t capacity_bytes) {
  return std::make_unique<S3Fifo>(capacity_bytes);
}

}  // namespace om::eviction
