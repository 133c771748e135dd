// Expiry: which object to look at when.
//
// A heap of times, the earliest first, 16 bytes each and no more of an object. One that expires is
// in it with its time or an earlier one: a later time is found when the earlier one has come. What
// goes before its time (removed, replaced, evicted) leaves an entry that means nothing, and so does
// one whose time comes nearer (then it is known which of its entries counts: outdated_). They are
// counted, and when they are more than half of all, what still means something is sifted out. Or a
// store that is written to for a long time would remember all that it ever had.
#include <algorithm>
#include <functional>
#include <utility>

#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::size_t kExpiredAtOnceMax = 1000;  // per tick
constexpr std::size_t kSiftedAtOnceMax = 20000;  // per tick
constexpr std::size_t kStaleExpiriesMax = 1024;  // and half of all
// What could not be read or removed when its time had come is tried again.
constexpr std::uint64_t kExpireAgainNs = std::uint64_t{10} * 1'000'000'000;

}  // namespace

void StoreImpl::push_expiry(Expiry expiry) {
  expiries_.push_back(expiry);
  std::push_heap(expiries_.begin(), expiries_.end(), std::greater<>());
}

void StoreImpl::note_expiry(const catalog::Record& record) {
  if (record.expires_ns != 0) push_expiry({record.expires_ns, record.object_id});
}

// Of an object that is in already, unless it did not expire before.
void StoreImpl::note_expiry_again(std::uint64_t before_ns, const catalog::Record& record) {
  const std::uint64_t now_ns = record.expires_ns;
  if (now_ns == before_ns || (before_ns != 0 && now_ns > before_ns)) return;
  if (before_ns != 0) {
    ++stale_expiries_;
    Outdated& outdated = outdated_[record.object_id];
    ++outdated.entries;
    outdated.counts_ns = 0;
  }
  if (now_ns != 0) push_expiry_again({now_ns, record.object_id});
}

// From now on this is the entry that counts.
void StoreImpl::push_expiry_again(Expiry expiry) {
  const auto known = outdated_.find(expiry.second);
  if (known != outdated_.end()) {
    known->second.counts_ns = expiry.first;
    known->second.sift = sifts_;
  }
  push_expiry(expiry);
}

// Of an entry that was taken out: whether another one counts for its object.
bool StoreImpl::was_outdated(const Expiry& expiry) {
  const auto known = outdated_.find(expiry.second);
  if (known == outdated_.end() || known->second.counts_ns == expiry.first) return false;
  if (--known->second.entries == 0) outdated_.erase(known);
  return true;
}

// Of an entry that counts and was taken out of sifting_: whether there is one of the same time in
// expiries_ already. A time that was given up may come again.
bool StoreImpl::was_kept(const Expiry& expiry) {
  const auto known = outdated_.find(expiry.second);
  if (known == outdated_.end() || std::exchange(known->second.sift, sifts_) != sifts_) return false;
  if (--known->second.entries == 0) outdated_.erase(known);
  return true;
}

// The entry that counted was taken out, and there will be no other.
void StoreImpl::forget_expiry(ObjectId object) {
  const auto known = outdated_.find(object);
  if (known != outdated_.end()) known->second.counts_ns = 0;
}

// So many in a tick, lest those who ask wait for millions. What expires meanwhile goes a little
// later; nobody sees it (look_up).
void StoreImpl::sift_expiries() {
  if (sifting_.empty()) {
    if (stale_expiries_ <= expiries_.size() / 2 + kStaleExpiriesMax) return;
    sifting_.swap(expiries_);
    stale_expiries_ = 0;
    ++sifts_;
  }
  for (std::size_t i = 0; i < kSiftedAtOnceMax && !sifting_.empty(); ++i) {
    const Expiry expiry = sifting_.back();
    sifting_.pop_back();
    if (was_outdated(expiry) || was_kept(expiry)) continue;
    const ObjectId object = expiry.second;
    if (memory_policy_->contains(object) || disk_policy_->contains(object) ||
        relocating_.count(object) != 0)
      push_expiry(expiry);
    else
      forget_expiry(object);
  }
  if (sifting_.empty()) sifting_.shrink_to_fit();
}

void StoreImpl::expire() {
  sift_expiries();
  const std::uint64_t now = clock_.real_ns();
  const auto one_less = [&] {
    if (stale_expiries_ > 0) --stale_expiries_;
  };
  for (std::size_t i = 0; i < kExpiredAtOnceMax; ++i) {
    if (expiries_.empty() || expiries_.front().first > now) return;
    std::pop_heap(expiries_.begin(), expiries_.end(), std::greater<>());
    const Expiry expiry = expiries_.back();
    expiries_.pop_back();
    if (was_outdated(expiry)) {
      one_less();
      continue;
    }
    const auto record = catalog_->find_object(expiry.second);
    if (!record) {
      push_expiry_again({now + kExpireAgainNs, expiry.second});
      continue;
    }
    if (!*record || (*record)->expires_ns == 0) {
      one_less();
      forget_expiry(expiry.second);
      continue;
    }
    if ((*record)->expires_ns > now) {
      push_expiry_again({(*record)->expires_ns, expiry.second});
      continue;
    }
    bool durable = false;
    const auto removed = remove_object((*record)->key, durable);
    if (!removed) {
      push_expiry_again({now + kExpireAgainNs, expiry.second});
      continue;
    }
    one_less();  // retire() has counted what is not in there any more
    forget_expiry(expiry.second);
    if (*removed) ++count_.expired;
  }
}

}  // namespace om::store
