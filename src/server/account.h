// What the peers of one user hold of the daemon, beyond what the store accounts for (bytes, puts,
// leases): connections, replies that wait, descriptors under way. Charges are objects that give
// back what they took.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/assert.h"

namespace om::server {

// One number that goes up and down, with a total above it.
class Gauge {
 public:
  Gauge() = default;
  explicit Gauge(Gauge* total) : total_(total) {}
  Gauge(const Gauge&) = delete;
  Gauge& operator=(const Gauge&) = delete;
  ~Gauge() { subtract(value_); }
  void add(std::size_t n) {
    value_ += n;
    if (total_ != nullptr) total_->add(n);
  }
  void subtract(std::size_t n) {
    OM_ASSERT(value_ >= n);
    value_ -= n;
    if (total_ != nullptr) total_->subtract(n);
  }
  [[nodiscard]] std::size_t value() const { return value_; }

 private:
  Gauge* total_ = nullptr;
  std::size_t value_ = 0;
};

struct AccountLimits {
  std::size_t connections_max = 4096;  // of all users
  // Of one user that is neither root nor the daemon's: nobody locks all others out.
  std::size_t connections_per_user_max = 2048;
  std::size_t reply_bytes_per_user_max = std::size_t{64} << 20;
  std::size_t descriptors_max = 4096;  // of all users, queued and under way
};

struct Totals {
  Gauge connections;
  Gauge reply_bytes;
  Gauge descriptors;
};

struct Account {
  explicit Account(Totals& totals)
      : connections(&totals.connections),
        reply_bytes(&totals.reply_bytes),
        descriptors(&totals.descriptors) {}
  Gauge connections;
  Gauge reply_bytes;
  Gauge descriptors;
};

// The accounts by user. One lives for as long as somebody holds it.
class Accounts {
 public:
  explicit Accounts(Totals& totals) : totals_(totals) {}
  std::shared_ptr<Account> of(uid_t user) {
    std::weak_ptr<Account>& slot = accounts_[user];
    auto account = slot.lock();
    if (!account) slot = account = std::make_shared<Account>(totals_);
    return account;
  }
  // Forgets users that are gone.
  void tidy() {
    std::erase_if(accounts_, [](const auto& entry) { return entry.second.expired(); });
  }

 private:
  Totals& totals_;
  std::map<uid_t, std::weak_ptr<Account>> accounts_;
};

}  // namespace om::server
