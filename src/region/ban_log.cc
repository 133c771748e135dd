#include "region/ban_log.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/units.h"
#include "region/record.h"

namespace om::region {

// At the start of each half. Entries follow; `committed` is where the next one goes.
struct BanLog::Half {
  Word number;     // as bans_current when this half was the current one
  Word committed;  // as encode_pointer() does: a damaged one is seen
  std::array<std::uint64_t, 6> reserved;
};

namespace {

struct Entry {
  std::uint64_t checksum;  // XXH3 of all that follows, spec included
  std::uint64_t number;    // of the half's use: an entry of an earlier use is not one of this
  std::uint64_t position;  // from the start of the half
  std::uint32_t length;
  BanEvent event;
  // the spec follows, padded to 8
};
static_assert(sizeof(Entry) == 32);

constexpr std::uint64_t kHalfHeader = 64;
constexpr std::size_t kSpecHeader = 16;  // time, length, flags, padding
constexpr double kEverything = std::numeric_limits<double>::infinity();

std::uint64_t encode_position(std::uint64_t position) { return encode_pointer(position * 8); }
std::uint64_t decode_position(std::uint64_t word) { return decode_pointer(word) / 8; }
std::uint64_t encode_number(std::uint64_t number) { return encode_pointer(number * kGranule); }
std::uint64_t decode_number(std::uint64_t word) { return decode_pointer(word) / kGranule; }

std::uint64_t big_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | static_cast<std::uint64_t>(byte);
  return value;
}

void set_spec_time(std::span<std::byte> spec, double time) {
  const auto bits = std::bit_cast<std::uint64_t>(time);
  for (std::size_t i = 0; i < 8; ++i) spec[i] = static_cast<std::byte>(bits >> (56 - 8 * i));
}

std::uint64_t entry_bytes(std::size_t spec) { return sizeof(Entry) + round_up(spec, 8); }

// Writes an entry at `at`; the caller knows that it fits, and commits it.
void write_entry(std::byte* at, std::uint64_t number, std::uint64_t position, BanEvent event,
                 std::span<const std::byte> spec) {
  Entry entry{0, number, position, static_cast<std::uint32_t>(spec.size()), event};
  std::memcpy(at, &entry, sizeof entry);
  std::memcpy(at + sizeof entry, spec.data(), spec.size());
  entry.checksum = checksum({at + 8, sizeof entry - 8 + spec.size()});
  std::memcpy(at, &entry.checksum, sizeof entry.checksum);
}

}  // namespace

double ban_spec_time(std::span<const std::byte> spec) {
  if (spec.size() < 8) return 0;
  return std::bit_cast<double>(big_endian(spec.first(8)));
}

std::size_t ban_spec_bytes(std::span<const std::byte> specs) {
  if (specs.size() < kSpecHeader) return 0;
  const std::uint64_t length = big_endian(specs.subspan(8, 4));
  return length < kSpecHeader || length > specs.size() ? 0 : length;
}

BanLog::BanLog(RegionHeader* header, std::byte* area, std::uint64_t bytes)
    : header_(header), area_(area), half_bytes_(bytes / 2) {
  static_assert(sizeof(Half) == kHalfHeader);
  OM_ASSERT(half_bytes_ % 8 == 0 && half_bytes_ > kHalfHeader);
}

BanLog::Half* BanLog::half(std::uint64_t number) const {
  return reinterpret_cast<Half*>(area_ + (number & 1) * half_bytes_);
}

std::uint64_t BanLog::capacity() const { return half_bytes_ - kHalfHeader; }

std::uint64_t BanLog::used() const {
  const std::uint64_t number = decode_number(header_->bans_current.load());
  const std::uint64_t end = decode_position(half(number)->committed.load());
  return end < kHalfHeader ? 0 : end - kHalfHeader;
}

void BanLog::format() {
  for (const std::uint64_t number : {1, 2}) {
    half(number)->number.store(number, std::memory_order_relaxed);
    half(number)->committed.store(encode_position(kHalfHeader), std::memory_order_relaxed);
  }
  header_->bans_lost.store(0, std::memory_order_relaxed);
  header_->bans_lost_again.store(0, std::memory_order_relaxed);
  header_->bans_sent.store(0, std::memory_order_relaxed);
  header_->bans_current.store(encode_number(1), std::memory_order_release);
}

bool BanLog::append(BanEvent event, std::span<const std::byte> spec) {
  const std::size_t length = ban_spec_bytes(spec);
  if (length == 0) return false;
  const std::uint64_t number = decode_number(header_->bans_current.load());
  Half* current = half(number);
  const std::uint64_t position = decode_position(current->committed.load());
  if (current->number.load() != number || position < kHalfHeader || position > half_bytes_ ||
      entry_bytes(length) > half_bytes_ - position) {
    return false;
  }
  write_entry(reinterpret_cast<std::byte*>(current) + position, number, position, event,
              spec.first(length));
  current->committed.store(encode_position(position + entry_bytes(length)),
                           std::memory_order_release);
  return true;
}

bool BanLog::replace(std::span<const std::byte> specs) {
  // From which spec on do they fit? A quarter stays free, so that the next ban does not do this
  // again. Two passes instead of a list: nothing is allocated under ban_mtx.
  const std::uint64_t room = capacity() - capacity() / 4;
  std::uint64_t total = 0;
  std::size_t whole = 0;
  double newest = 0;
  for (std::size_t n = 0; (n = ban_spec_bytes(specs.subspan(whole))) != 0; whole += n) {
    total += entry_bytes(n);
    newest = std::max(newest, ban_spec_time(specs.subspan(whole)));
  }
  bool all = whole == specs.size();
  // Bytes that are no specs: what they forbade is unknown.
  if (!all) mark_lost(kEverything);
  std::size_t from = 0;
  for (; total > room; all = false) {
    const std::size_t n = ban_spec_bytes(specs.subspan(from));
    mark_lost(ban_spec_time(specs.subspan(from)));
    total -= entry_bytes(n);
    from += n;
  }
  const std::uint64_t number = decode_number(header_->bans_current.load()) + 1;
  Half* next = half(number);
  // Nobody reads this half before bans_current names it.
  next->number.store(number, std::memory_order_relaxed);
  std::uint64_t position = kHalfHeader;
  for (std::size_t n = 0; from < whole; from += n) {
    n = ban_spec_bytes(specs.subspan(from));
    write_entry(reinterpret_cast<std::byte*>(next) + position, number, position, BanEvent::kNew,
                specs.subspan(from, n));
    position += entry_bytes(n);
  }
  next->committed.store(encode_position(position), std::memory_order_relaxed);
  header_->bans_current.store(encode_number(number), std::memory_order_release);
  return all;
}

void BanLog::mark_sent(double time) {
  if (time > sent_until()) store_double(header_->bans_sent, time);
}

double BanLog::sent_until() const {
  const double time = load_double(header_->bans_sent);
  return std::isfinite(time) && time > 0 ? time : 0;
}

void BanLog::mark_lost(double time) {
  if (std::isnan(time)) time = kEverything;
  // Twice, and the later one counts: a crash between the stores, or damage to one of them, never
  // makes it earlier.
  if (time > load_double(header_->bans_lost)) store_double(header_->bans_lost, time);
  if (time > load_double(header_->bans_lost_again)) store_double(header_->bans_lost_again, time);
}

BanLog::Loaded BanLog::load() const {
  Loaded loaded;
  const double lost = load_double(header_->bans_lost);
  const double again = load_double(header_->bans_lost_again);
  loaded.lost_until = std::isnan(lost) || std::isnan(again) ? kEverything : std::max(lost, again);

  struct Found {
    std::span<const std::byte> spec;
    bool alive;
  };
  std::vector<Found> found;
  std::size_t oldest = 0;
  const std::uint64_t number = decode_number(header_->bans_current.load());
  const Half* current = half(number);
  const std::uint64_t end = decode_position(current->committed.load());
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(current), half_bytes_);
  std::uint64_t position = kHalfHeader;
  bool intact =
      number != 0 && current->number.load() == number && end >= kHalfHeader && end <= half_bytes_;
  while (intact && position < end) {
    Entry entry{};
    if (end - position < sizeof entry) {
      intact = false;
      break;
    }
    std::memcpy(&entry, bytes.data() + position, sizeof entry);
    const auto rest = bytes.subspan(position + sizeof entry, end - position - sizeof entry);
    intact =
        entry.length <= rest.size() && entry_bytes(entry.length) <= end - position &&
        entry.number == number && entry.position == position &&
        entry.checksum == checksum(bytes.subspan(position + 8, sizeof entry - 8 + entry.length)) &&
        ban_spec_bytes(rest.first(entry.length)) == entry.length;
    if (!intact) break;
    const auto spec = rest.first(entry.length);
    if (entry.event == BanEvent::kNew) {
      found.push_back({spec, true});
    } else {
      // A spec that completed is dropped with a shorter length: its time is what identifies it.
      // Varnish drops the oldest first, so the search is short.
      while (oldest < found.size() && !found[oldest].alive) ++oldest;
      for (std::size_t i = oldest; i < found.size(); ++i) {
        if (!found[i].alive || std::memcmp(found[i].spec.data(), spec.data(), 8) != 0) continue;
        found[i].alive = false;
        break;
      }
    }
    position += entry_bytes(entry.length);
  }
  if (!intact) loaded.lost_until = kEverything;
  for (const Found& ban : found) {
    if (!ban.alive) continue;
    const std::size_t at = loaded.specs.size();
    loaded.specs.insert(loaded.specs.end(), ban.spec.begin(), ban.spec.end());
    double time = ban_spec_time(ban.spec);
    if (!(time > loaded.newest)) {
      time = std::nextafter(loaded.newest, kEverything);
      set_spec_time(std::span(loaded.specs).subspan(at), time);
    }
    loaded.newest = time;
    ++loaded.count;
  }
  return loaded;
}

}  // namespace om::region
