#include "landing.h"

#include <algorithm>

#include "base/limits.h"
#include "lease_body.h"
#include "storage.h"

namespace om::vmod::landing {

namespace {

thread_local const struct objcore* expected_object = nullptr;
thread_local Source* expected_source = nullptr;

// From byte `at` of the body to the end of the piece that it lies in.
std::span<std::byte> piece(const Fetch& fetch, std::uint64_t at) {
  for (const auto& memory : fetch.landed->memory) {
    if (at < memory.size()) return memory.subspan(at);
    at -= memory.size();
  }
  return {};
}

// At its first byte where the length is known; else when the room that it has is full and it has
// become large.
bool is_time(const Fetch& fetch) {
  if (fetch.length_known && !fetch.gzips) return fetch.total == 0;
  return fetch.total >= kBytesMin && fetch.file == nullptr &&
         fetch.pieces.back().extent.length == fetch.pieces.back().limit;
}

// False: it does not land.
bool start(struct worker* wrk, struct objcore* oc, Fetch& fetch) {
  Source* const source = expected_source;
  auto room = source->land(wrk, fetch.total);
  if (!room) return false;
  auto landed = std::make_unique<Fetch::Landed>();
  landed->client = std::move(room->client);
  landed->lease = std::move(room->lease);
  landed->memory = std::move(room->memory.parts);
  landed->pins = std::move(room->memory.pins);
  landed->name = std::move(room->name);
  landed->source = source;
  Lck_Lock(&oc->boc->mtx);
  for (const Fetch::Piece& behind : fetch.pieces) fetch.left_behind.push_back(behind.extent);
  fetch.pieces.clear();
  fetch.landed = std::move(landed);
  Lck_Unlock(&oc->boc->mtx);
  return true;
}

// Readers may be at the bytes that have come: the lease stays until the boc goes.
bool move_to_region(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch) {
  region::Region& region = *store.region();
  std::vector<Fetch::Piece> pieces;
  for (std::uint64_t at = 0; at < fetch.total;) {
    const auto extent =
        allocate_piece(wrk, store, std::min<std::uint64_t>(fetch.total - at, kExtentBytesMax));
    if (!extent) {
      for (const Fetch::Piece& made : pieces) region.allocator().free(made.extent);
      return false;
    }
    pieces.push_back({*extent, extent->capacity, at});
    region::Extent& into = pieces.back().extent;
    into.length = 0;
    while (into.length < into.capacity && at < fetch.total) {
      const auto from = bytes(fetch, at, fetch.total);
      const auto some = static_cast<std::uint32_t>(
          std::min<std::size_t>(from.size(), into.capacity - into.length));
      std::memcpy(region.pointer(into.offset + into.length), from.data(), some);
      into.length += some;
      at += some;
    }
  }
  Lck_Lock(&oc->boc->mtx);
  fetch.pieces = std::move(pieces);
  fetch.landed->left = true;
  Lck_Unlock(&oc->boc->mtx);
  return true;
}

}  // namespace

void expect(const struct objcore* oc, Source* source) {
  expected_object = oc;
  expected_source = source;
}

void forget(const struct objcore* oc) {
  if (expected(oc)) expect(nullptr, nullptr);
}

bool expected(const struct objcore* oc) { return oc != nullptr && expected_object == oc; }

std::optional<std::span<std::byte>> space(struct worker* wrk, Store& store, struct objcore* oc,
                                          Fetch& fetch) try {
  if (expected(oc) && is_time(fetch)) {
    const bool lands = start(wrk, oc, fetch);
    forget(oc);
    if (!lands) return std::nullopt;
  }
  if (!fetch.landed || fetch.landed->left) return std::nullopt;
  auto room = piece(fetch, fetch.total);
  if (!room.empty()) return room;
  auto memory = fetch.landed->source->more();
  if (memory.parts.empty()) {
    if (!move_to_region(wrk, store, oc, fetch)) return room;
    return std::nullopt;
  }
  Lck_Lock(&oc->boc->mtx);
  fetch.landed->memory.swap(memory.parts);
  fetch.landed->pins.swap(memory.pins);
  Lck_Unlock(&oc->boc->mtx);
  return piece(fetch, fetch.total);
} catch (const std::exception&) {
  // Out of memory. What has landed has no other place.
  forget(oc);
  return fetch.landed && !fetch.landed->left ? std::optional(std::span<std::byte>()) : std::nullopt;
}

std::span<const std::byte> bytes(const Fetch& fetch, std::uint64_t at, std::uint64_t there) {
  const auto all = piece(fetch, at);
  return all.first(static_cast<std::size_t>(std::min<std::uint64_t>(all.size(), there - at)));
}

void settle(const struct objcore* oc, Fetch& fetch) {
  Fetch::Landed& landed = *fetch.landed;
  std::vector<std::span<const std::byte>> memory;
  for (std::uint64_t at = 0; at < fetch.total; at += memory.back().size())
    memory.push_back(bytes(fetch, at, fetch.total));
  fetch.settled = true;
  // Nothing: the lease goes with the fetch.
  if (memory.empty()) return;
  // Readers that stream may still be at the bytes: the fetch keeps its pins until the boc goes.
  auto body = lease_body::hold(oc, landed.client, std::move(landed.lease), std::move(memory),
                               std::move(landed.name), landed.pins);
  Lck_Lock(&oc->boc->mtx);
  attach_body(oc, std::move(body));
  Lck_Unlock(&oc->boc->mtx);
}

}  // namespace om::vmod::landing
