// iterator.cc: handing a body on, whole or while it comes.
//
// Whole: one call for each part in memory, and for each slice of a part in a file. Streaming: the
// boc is held, so the pieces stay; the next bytes are looked up with boc->mtx held and handed on
// without it. A fetch that failed is never taken for a whole body: what came of it is handed on,
// and then -1, also when its boc has gone meanwhile.
//
// Of which a client wants a range: what lies before the range is counted off and not read, nor is
// what lies behind it, whole or not yet.
#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>
#include <string_view>

#include "lane.h"
#include "methods.h"

namespace om::vmod {

using abi::varnish;

namespace {

bool share_attached(struct worker* wrk, Store& store, const AttachedBody& body,
                    struct objcore* target, Fetch& fetch) {
  const auto view = body.view();
  if (!view || view->length() == 0) return false;
  std::unique_ptr<AttachedBody> shared = body.share(target);
  if (shared == nullptr) return false;
  Lck_Lock(&target->boc->mtx);
  attach_body(target, std::move(shared));
  fetch.settled = true;
  Lck_Unlock(&target->boc->mtx);
  varnish.ObjExtend(wrk, target, static_cast<ssize_t>(view->length()), 1);
  count(store.counters().c_shared);
  count(store.counters().c_shared_bytes, view->length());
  return true;
}

// A 304: Varnish copies the stale object's body into the new one by this iterator. When both are
// ours, the new record takes the same extents instead, by reference.
bool share_with_refreshed(struct worker* wrk, struct objcore* oc, const void* priv) {
  struct busyobj* bo = varnish.THR_GetBusyobj();
  if (bo == nullptr || priv != bo || bo->stale_oc != oc || bo->fetch_objcore == nullptr)
    return false;
  struct objcore* target = bo->fetch_objcore;
  Store* store = Store::of(oc);
  if (store == nullptr || Store::of(target) != store || target->boc == nullptr) return false;
  Fetch* fetch = Fetch::of(target->boc);
  if (fetch == nullptr || fetch->settled || !fetch->pieces.empty() || fetch->file != nullptr ||
      fetch->landed != nullptr)
    return false;
  if (const AttachedBody* body = attached_body(oc); body != nullptr)
    return share_attached(wrk, *store, *body, target, *fetch);
  if (oc->stobj->priv2 != 0) return false;
  region::Region& region = *store->region();
  std::vector<Fetch::Piece> pieces;
  std::unique_ptr<Fetch::File> shared;
  std::uint64_t total = 0;
  if (const auto ref = file_of(record_of(oc))) {
    auto file = region.files()->pin(*ref);
    if (!file) return false;
    shared = std::make_unique<Fetch::File>();
    shared->file = *std::move(file);
    shared->written = total = ref->length;
  } else {
    for (const region::Extent& extent : region.body(record_of(oc))) {
      pieces.push_back({extent, extent.length, total});
      total += extent.length;
    }
  }
  if (total == 0) return false;
  if (!region.share_body(record_of(target), record_of(oc))) return false;
  store->place(target, shared != nullptr ? Place::kFile : Place::kMemory);
  Lck_Lock(&target->boc->mtx);
  fetch->pieces = std::move(pieces);
  fetch->file = std::move(shared);
  fetch->total = total;
  fetch->file_from = 0;
  fetch->settled = true;
  Lck_Unlock(&target->boc->mtx);
  varnish.ObjExtend(wrk, target, static_cast<ssize_t>(total), 1);
  count(store->counters().c_shared);
  count(store->counters().c_shared_bytes, total);
  return true;
}

// Part by part: those in files to the socket, those in memory the usual way.
int by_file_lane(Delivery& delivery, const BodyView& body, void* priv, objiterate_f* func,
                 unsigned common, bool failed) {
  const auto parts = body.parts();
  for (const BodyPart& part : parts) {
    const unsigned flags = common | (&part == &parts.back() && !failed ? OBJ_ITER_END : 0U);
    const auto bytes = FileBytes::of(part);
    if (const int answer = bytes
                               ? delivery.give(flags, *bytes)
                               : func(priv, flags, part.memory, static_cast<ssize_t>(part.length));
        answer != 0)
      return answer;
  }
  return failed ? -1 : 0;
}

// Whose Content-Range it is, is known where there is one: VCL may have set another.
bool has_one_content_range(const struct http* response) {
  constexpr std::string_view kName = "content-range:";
  unsigned count = 0;
  for (unsigned i = HTTP_HDR_FIRST; i < response->nhd; ++i) {
    const txt& line = response->hd[i];
    if (static_cast<std::size_t>(line.e - line.b) > kName.size() &&
        strncasecmp(line.b, kName.data(), kName.size()) == 0)
      ++count;
  }
  return count == 1;
}

// Which bytes the client's Range wants, when the filter that cuts them out comes first.
struct Wanted {
  std::uint64_t first;
  std::uint64_t length;
};
std::optional<Wanted> range_wanted(const void* priv) {
  const struct req* req = varnish.THR_GetRequest();
  if (req == nullptr || priv != req->vdc || req->resp == nullptr) return std::nullopt;
  const struct vdp_entry* first = VTAILQ_FIRST(&req->vdc->vdp);
  const char* range = nullptr;
  if (first == nullptr || std::strcmp(first->vdp->name, "range") != 0 ||
      !has_one_content_range(req->resp) || http_GetHdr(req->resp, H_Content_Range, &range) == 0 ||
      range == nullptr || std::strncmp(range, "bytes ", 6) != 0)
    return std::nullopt;
  char* end = nullptr;
  const std::uint64_t from = std::strtoull(range + 6, &end, 10);
  const std::uint64_t to = *end == '-' ? std::strtoull(end + 1, nullptr, 10) : 0;
  if (to < from) return std::nullopt;
  return Wanted{from, to - from + 1};
}

// Bytes before the range. The filter only counts them: where they point to does not matter.
int count_off(void* priv, objiterate_f* func, unsigned flags, std::uint64_t length) {
  static constexpr std::byte kNowhere{};
  return func(priv, flags, &kNowhere, static_cast<ssize_t>(length));
}

int whole(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func, int final) {
  const bool failed = (oc->flags & OC_F_FAILED) != 0;
  // Deliveries and revalidations were checked before; this is for whoever comes another way.
  if (!body_is_good(oc)) return -1;
  if (!failed && share_with_refreshed(wrk, oc, priv)) return 0;
  Store& store = *Store::of(oc);
  const auto body = view_body(oc);
  if (!body) return -1;
  Delivery delivery(wrk, oc, priv, func, store, body->parts());
  if (delivery.sends_files()) {
    const int answer = by_file_lane(delivery, *body, priv, func,
                                    final != 0 || failed ? OBJ_ITER_FLUSH : 0U, failed);
    if (delivery.file_failed()) disk_read_failed(store, oc, EIO);
    return answer;
  }
  SliceReader reader(*body);
  SliceReader::Slice slice;
  std::uint64_t read = 0;
  int answer = 0;
  if (const auto range = body->has_file() ? range_wanted(priv) : std::nullopt;
      range && range->first < body->length()) {
    if (range->first > 0) {
      answer = count_off(priv, func, 0, range->first);
      reader.skip(range->first);
    }
    // Nothing is read for a client who wants no more.
    reader.stop_after(range->length);
  }
  while (answer == 0 && reader.next(slice)) {
    unsigned flags = 0;
    if (slice.last && !failed) flags |= OBJ_ITER_END;
    // Bytes that pass must have left when the call returns.
    if (final != 0 || failed || slice.passing) flags |= OBJ_ITER_FLUSH;
    if (slice.passing) read += slice.length;
    answer = func(priv, flags, slice.bytes, static_cast<ssize_t>(slice.length));
  }
  if (read > 0) count(store.counters().c_disk_read, read);
  if (answer != 0) return answer;
  // Memory that is short is no fault of the object's.
  if (reader.error() != 0 && reader.error() != ENOMEM) disk_read_failed(store, oc, reader.error());
  return failed || reader.error() != 0 ? -1 : 0;
}

// The file that a body is on its way into, if it is: what a delivery of it chooses its lane by.
std::shared_ptr<const region::BodyFile> file_so_far(struct boc* boc, const Fetch& fetch) {
  Lck_Lock(&boc->mtx);
  auto file = fetch.file == nullptr ? nullptr : fetch.file->file;
  Lck_Unlock(&boc->mtx);
  return file;
}

int streaming(struct worker* wrk, struct objcore* oc, struct boc* boc, void* priv,
              objiterate_f* func, int final) {
  Store& store = *Store::of(oc);
  const Fetch* fetch = Fetch::of(boc);
  if (fetch == nullptr) return -1;
  const auto file = file_so_far(boc, *fetch);
  BodyPart begin;
  if (file != nullptr) begin = {nullptr, file->fd(), 0, 1};
  Delivery delivery(wrk, oc, priv, func, store, {&begin, file != nullptr ? 1U : 0U});
  const auto range = range_wanted(priv);
  const std::uint64_t first = range ? range->first : 0;
  std::uint64_t sent = 0;
  unsigned flags = 0;
  // Nothing there yet: the headers go out meanwhile.
  if (boc->len_so_far == 0)
    if (const int answer = func(priv, OBJ_ITER_FLUSH, nullptr, 0); answer != 0) return answer;
  while (true) {
    const std::uint64_t seen = varnish.ObjWaitExtend(wrk, oc, sent);
    if (boc->state == BOS_FAILED) {
      // What was handed on lies in memory that is given back soon, and an ESI page goes on.
      (void)func(priv, OBJ_ITER_FLUSH, nullptr, 0);
      return -1;
    }
    if (seen == sent) {
      if (boc->state == BOS_FINISHED) break;
      continue;
    }
    // It got all of its body at once, and that is not among the pieces.
    if (sent == 0 && attached_body(oc) != nullptr) return whole(wrk, oc, priv, func, final);
    Lck_Lock(&boc->mtx);
    // Together with the state: a body is at its end only when both were seen at once.
    const std::uint64_t there = boc->len_so_far;
    const bool finished = boc->state == BOS_FINISHED;
    const std::uint64_t before = sent < first ? std::min(there, first) - sent : 0;
    const StreamedBytes bytes =
        before > 0 ? StreamedBytes{} : streamed_bytes(*fetch, *store.region(), sent, there);
    Lck_Unlock(&boc->mtx);
    const auto pass = [&](std::uint64_t length, bool passing) {
      const bool last = sent + length == there;
      flags = 0;
      if (last || final != 0 || passing) flags |= OBJ_ITER_FLUSH;
      if (last && finished) flags |= OBJ_ITER_END;
      sent += length;
      return flags;
    };
    const auto hand_on = [&](const std::byte* at, std::uint64_t length, bool passing) {
      return func(priv, pass(length, passing), at, static_cast<ssize_t>(length));
    };
    int answer = 0;
    if (before > 0) {
      // As they come, not all at once where the range begins: the headers leave meanwhile, and
      // HTTP/2 notices a client that has gone.
      answer = count_off(priv, func, pass(before, false), before);
    } else if (bytes.file == nullptr) {
      answer = hand_on(bytes.memory, bytes.length, bytes.passing);
    } else if (delivery.sends_files()) {
      const BodyPart part{nullptr, bytes.file->fd(), bytes.offset, bytes.length};
      answer = delivery.give(pass(bytes.length, false), *FileBytes::of(part));
      if (delivery.file_failed()) disk_read_failed(store, oc, EIO);
    } else {
      BodyView behind;
      behind.add(bytes.file->fd(), bytes.offset, bytes.length);
      SliceReader reader(behind);
      if (range) reader.stop_after(range->first + range->length - sent);
      SliceReader::Slice slice;
      while (answer == 0 && reader.next(slice)) answer = hand_on(slice.bytes, slice.length, true);
      count(store.counters().c_disk_read, sent - bytes.offset);
      if (reader.error() != 0) {
        if (reader.error() != ENOMEM) disk_read_failed(store, oc, reader.error());
        return -1;
      }
    }
    if (answer != 0) return answer;
  }
  return (flags & OBJ_ITER_END) != 0 ? 0 : func(priv, OBJ_ITER_END, nullptr, 0);
}

}  // namespace

int iterate(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func,
            int final) noexcept {
  struct boc* boc = varnish.HSH_RefBoc(oc);
  int answer = -1;
  try {
    // A body that was attached came as a whole, before anybody could see it.
    answer = boc == nullptr || attached_body(oc) != nullptr
                 ? whole(wrk, oc, priv, func, final)
                 : streaming(wrk, oc, boc, priv, func, final);
  } catch (const std::exception&) {
    // Out of memory: what was handed on is not all of it.
  }
  if (boc != nullptr) varnish.HSH_DerefBoc(wrk, oc);
  return answer;
}

}  // namespace om::vmod
