// fetch.h: what a busy object has beside its record: the body as far as it has come.
//
//   in memory   pieces of at most 2 MiB
//   in a file   written in buffers; what is not written yet is in the last one. A body of unknown
//               length begins in memory and moves when it turns out to be large; one whose disk
//               fails or fills up moves back
//   landed      in the daemon's memory, where the object will keep it; nothing of it is ours
//   settled     the record has the body
//
// Made by allocobj, found through boc->stevedore_priv, gone with objbocdone, or with objfree when
// Varnish throws a busy object away. The fetching worker alone changes it, with boc->mtx held;
// readers that stream look at it with boc->mtx held, and take what keeps their bytes with them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "abi/abi.h"
#include "body.h"
#include "lease_body.h"
#include "objmapper/client.h"
#include "region/region.h"

namespace om::vmod {

class Store;
namespace landing {
class Source;
}

struct Fetch {
  std::uint32_t magic = kMagic;
  static constexpr std::uint32_t kMagic = 0x6f6d6601;

  struct Piece {
    region::Extent extent{};  // length: bytes that are published to readers
    std::uint32_t limit = 0;  // of its length, while it is filled
    std::uint64_t begin = 0;  // of its first byte in the body
  };
  std::vector<Piece> pieces;
  // Of a body that has moved to a file: readers may be at it until the boc goes.
  std::vector<region::Extent> left_behind;

  struct Buffer {
    std::byte* at = nullptr;
    std::size_t bytes = 0;
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { buffers::give_back(at, bytes); }
  };
  struct File {
    std::shared_ptr<const region::BodyFile> file;
    std::shared_ptr<region::BodyFile> writer;  // nullptr: finished, or shared with another object
    std::uint64_t written = 0;                 // bytes that are in the file
    std::shared_ptr<Buffer> buffer;            // the bytes behind those
    std::size_t filled = 0;
    std::optional<region::BodyChecksum> sum;
  };
  std::unique_ptr<File> file;

  // In the daemon (landing.h). Readers may be at its memory until the boc goes.
  struct Landed {
    std::shared_ptr<Client> client;
    Lease lease;                               // until the object has it
    std::vector<std::span<std::byte>> memory;  // the room, from the first byte of the body on
    lease_body::Pins pins;                     // what it lies in; never fewer than before
    lease_body::Name name;
    landing::Source* source = nullptr;  // while the body comes
    bool left = false;                  // it went on in the region
  };
  std::unique_ptr<Landed> landed;

  std::uint64_t total = 0;      // bytes published
  std::uint64_t expected = 0;   // what the backend announced, or 0
  std::uint64_t file_from = 0;  // a body that reaches this length belongs into a file; 0: none
  bool length_known = false;    // the backend sent a Content-Length
  bool gzips = false;           // Varnish compresses what the backend sends
  bool checksum = false;        // wanted
  bool settled = false;         // the record has the body: nothing here is ours to free

  static Fetch* of(const struct boc* boc) {
    auto* fetch = static_cast<Fetch*>(boc->stevedore_priv);
    return fetch != nullptr && fetch->magic == kMagic ? fetch : nullptr;
  }
};

// What a streaming reader hands on next, with what keeps it in place.
struct StreamedBytes {
  const std::byte* memory = nullptr;  // nullptr: in `file`, at `offset`
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool passing = false;  // memory that may be used for something else once `keep` is let go
  std::shared_ptr<const region::BodyFile> file;
  std::shared_ptr<const void> keep;
};
// Bytes from `at`, of which `there` - `at` are published. With boc->mtx held.
StreamedBytes streamed_bytes(const Fetch& fetch, const region::Region& region, std::uint64_t at,
                             std::uint64_t there);

// --- fetch.cc, for methods.cc: on the fetching worker, without boc->mtx

// The first piece of a body in memory, while the object can still go elsewhere. False: no room for
// the first 2 MiB of it.
bool first_piece(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch);
// Room for more. False: there is none, the fetch fails.
bool more_space(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch,
                std::uint64_t want, std::span<std::byte>& space);
// `length` bytes of that room are filled. With boc->mtx held.
void extend(Fetch& fetch, std::uint64_t length);
// All has come: gives back what is not needed, writes what is not written.
void trim(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch);
// The record takes over the body.
void settle(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool lasts);
// The body of the fetch is given up, unless it is settled; and what was left behind.
void give_up(region::Region& region, Fetch& fetch);

// One object goes from this store to make room there, within wrk->strangelove; false: none may go.
// Every record lies in memory: when no body may go there, records of other bodies do.
bool nuke(struct worker* wrk, Store& store, Place place);

// --- disk_fetch.cc
namespace disk {
// The body, whose first bytes may be in memory already, goes on in a file. False: the disk does not
// take it, counted by reason; everything is as before.
bool start(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch);
bool more_space(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch,
                std::uint64_t want, std::span<std::byte>& space);
// Writes what the buffer has, the last of the body or not. False: the disk does not take it.
bool flush(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool last);
// Back to memory. False: no room there.
bool move_to_memory(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch);
// Finishes the file and gives it to the record.
void settle(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool lasts);
}  // namespace disk

// A piece of body memory; evicts.
std::optional<region::Extent> allocate_piece(struct worker* wrk, Store& store, std::uint64_t want);

}  // namespace om::vmod
