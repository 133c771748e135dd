// sieve_lru.cc: what S3-FIFO is compared with. SIEVE (Zhang et al., NSDI 2024): one FIFO, one bit,
// and a hand that goes from old to new and takes the first that was not hit. LRU: a hit moves the
// object to the front.
#include "store/eviction/policy.h"
#include "store/eviction/table.h"

namespace om::eviction {
namespace {

class OneQueue : public Policy {
 public:
  void insert(std::uint64_t id, std::uint64_t bytes, std::uint64_t fingerprint) override {
    erase(id);
    const SlotIndex index = table_.add(id);
    table_.at(index).bytes = bytes & ((std::uint64_t{1} << 48) - 1);
    table_.at(index).fingerprint = fingerprint;
    queue_.push(table_, index);
  }
  bool erase(std::uint64_t id) override {
    const SlotIndex index = table_.find(id);
    if (index == kNone) return false;
    drop(index);
    return true;
  }
  void set_capacity(std::uint64_t /*bytes*/) override {}
  [[nodiscard]] bool contains(std::uint64_t id) const override { return table_.find(id) != kNone; }
  [[nodiscard]] std::uint64_t bytes() const override { return queue_.bytes(); }
  [[nodiscard]] std::size_t objects() const override { return table_.size(); }
  [[nodiscard]] std::size_t memory_bytes() const override { return table_.memory_bytes(); }

 protected:
  virtual void leaving(SlotIndex /*index*/) {}
  void drop(SlotIndex index) {
    leaving(index);
    queue_.unlink(table_, index);
    table_.remove(index);
  }
  Table table_;
  Queue queue_;
};

class Sieve final : public OneQueue {
 public:
  void touch(std::uint64_t id) override {
    if (const SlotIndex index = table_.find(id); index != kNone) table_.at(index).hits = 1;
  }
  std::optional<Victim> evict(const Skip& skip) override {
    // Twice around at most: the first takes the bits away.
    for (std::size_t left = 2 * table_.size(); left > 0; --left) {
      if (hand_ == kNone) hand_ = queue_.oldest();
      const SlotIndex index = hand_;
      Slot& slot = table_.at(index);
      if (slot.hits > 0) {
        slot.hits = 0;
      } else if (!skip(slot.id)) {
        const Victim victim{slot.id, slot.bytes};
        drop(index);
        return victim;
      }
      hand_ = slot.newer;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::string_view name() const override { return "sieve"; }

 private:
  void leaving(SlotIndex index) override {
    if (hand_ == index) hand_ = table_.at(index).newer;
  }
  SlotIndex hand_ = kNone;
};

class Lru final : public OneQueue {
 public:
  void touch(std::uint64_t id) override {
    const SlotIndex index = table_.find(id);
    if (index == kNone) return;
    queue_.unlink(table_, index);
    queue_.push(table_, index);
  }
  std::optional<Victim> evict(const Skip& skip) override {
    for (SlotIndex index = queue_.oldest(); index != kNone; index = table_.at(index).newer) {
      const Slot& slot = table_.at(index);
      if (skip(slot.id)) continue;
      const Victim victim{slot.id, slot.bytes};
      drop(index);
      return victim;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::string_view name() const override { return "lru"; }
};

}  // namespace

std::unique_ptr<Policy> make_sieve(std::uint64_t /*capacity_bytes*/) {
  return std::make_unique<Sieve>();
}
std::unique_ptr<Policy> make_lru(std::uint64_t /*capacity_bytes*/) {
  return std::make_unique<Lru>();
}
std::unique_ptr<Policy> make_policy(std::string_view name, std::uint64_t capacity_bytes) {
  if (name == "s3fifo") return make_s3fifo(capacity_bytes);
  if (name == "sieve") return make_sieve(capacity_bytes);
  if (name == "lru") return make_lru(capacity_bytes);
  return nullptr;
}

}  // namespace om::eviction
