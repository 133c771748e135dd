// iterator.cc: handing a body on, whole or while it comes.
//
// Whole: one call for each part in memory, and for each slice of a part in a file. Streaming: the
// boc is held, so the pieces stay; the next bytes are looked up with boc->mtx held and handed on
// without it. A fetch that failed is never taken for a whole body: what came of it is handed on,
// and then -1, also when its boc has gone meanwhile.
#include <algorithm>
#include <new>

#include "lane.h"
#include "methods.h"

namespace om::vmod {

using abi::varnish;

namespace {

// A 304: Varnish copies the stale object's body into the new one by this iterator. When both are
// ours, the new record takes the same extents instead, by reference.
bool share_with_refreshed(struct worker* wrk, struct objcore* oc, const void* priv) {
  struct busyobj* bo = varnish.THR_GetBusyobj();
  if (bo == nullptr || priv != bo || bo->stale_oc != oc || bo->fetch_objcore == nullptr)
    return false;
  struct objcore* target = bo->fetch_objcore;
  Store* store = Store::of(oc);
  if (store == nullptr || Store::of(target) != store || oc->stobj->priv2 != 0 ||
      target->boc == nullptr)
    return false;
  Fetch* fetch = Fetch::of(target->boc);
  if (fetch == nullptr || fetch->settled || !fetch->pieces.empty()) return false;
  region::Region& region = *store->region();
  const auto body = region.body(record_of(oc));  // priv2 is 0: the record names it
  if (body.empty()) return false;
  std::vector<Fetch::Piece> pieces;
  pieces.reserve(body.size());
  std::uint64_t total = 0;
  for (const region::Extent& extent : body) {
    pieces.push_back({extent, extent.length, total});
    total += extent.length;
  }
  if (!region.share_body(record_of(target), record_of(oc))) return false;
  Lck_Lock(&target->boc->mtx);
  fetch->pieces = std::move(pieces);
  fetch->total = total;
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

int whole(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func, int final) {
  const bool failed = (oc->flags & OC_F_FAILED) != 0;
  // Deliveries and revalidations were checked before; this is for whoever comes another way.
  if (!body_is_good(oc)) return -1;
  if (!failed && share_with_refreshed(wrk, oc, priv)) return 0;
  const auto body = view_body(oc);
  if (!body) return -1;
  Delivery delivery(wrk, oc, priv, func, *Store::of(oc), body->parts());
  if (delivery.sends_files())
    return by_file_lane(delivery, *body, priv, func, final != 0 || failed ? OBJ_ITER_FLUSH : 0U,
                        failed);
  SliceReader reader(*body);
  SliceReader::Slice slice;
  while (reader.next(slice)) {
    unsigned flags = 0;
    if (slice.last && !failed) flags |= OBJ_ITER_END;
    // Bytes that pass must have left when the call returns.
    if (final != 0 || failed || slice.passing) flags |= OBJ_ITER_FLUSH;
    if (const int answer = func(priv, flags, slice.bytes, static_cast<ssize_t>(slice.length));
        answer != 0)
      return answer;
  }
  return failed || reader.error() != 0 ? -1 : 0;
}

int streaming(struct worker* wrk, struct objcore* oc, struct boc* boc, void* priv,
              objiterate_f* func, int final) {
  const region::Region& region = *Store::of(oc)->region();
  const Fetch* fetch = Fetch::of(boc);
  if (fetch == nullptr) return -1;
  const Delivery delivery(wrk, oc, priv, func, *Store::of(oc), {});
  std::uint64_t sent = 0;
  std::size_t at = 0;
  unsigned flags = 0;
  // Nothing there yet: the headers go out meanwhile.
  if (boc->len_so_far == 0)
    if (const int answer = func(priv, OBJ_ITER_FLUSH, nullptr, 0); answer != 0) return answer;
  while (true) {
    const std::uint64_t seen = varnish.ObjWaitExtend(wrk, oc, sent);
    if (boc->state == BOS_FAILED) return -1;
    if (seen == sent) {
      if (boc->state == BOS_FINISHED) break;
      continue;
    }
    Lck_Lock(&boc->mtx);
    while (at + 1 < fetch->pieces.size() && fetch->pieces[at + 1].begin <= sent) ++at;
    const Fetch::Piece piece = fetch->pieces[at];
    // Together with the state: a body is at its end only when both were seen at once.
    const std::uint64_t there = boc->len_so_far;
    const bool finished = boc->state == BOS_FINISHED;
    Lck_Unlock(&boc->mtx);
    const std::uint64_t skip = sent - piece.begin;
    const std::uint64_t length = std::min<std::uint64_t>(piece.extent.length - skip, there - sent);
    const bool last = sent + length == there;
    flags = 0;
    if (last || final != 0) flags |= OBJ_ITER_FLUSH;
    if (last && finished) flags |= OBJ_ITER_END;
    sent += length;
    if (const int answer = func(priv, flags, region.pointer(piece.extent.offset + skip),
                                static_cast<ssize_t>(length));
        answer != 0)
      return answer;
  }
  return (flags & OBJ_ITER_END) != 0 ? 0 : func(priv, OBJ_ITER_END, nullptr, 0);
}

}  // namespace

int iterate(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func, int final) {
  struct boc* boc = varnish.HSH_RefBoc(oc);
  if (boc == nullptr) return whole(wrk, oc, priv, func, final);
  // A body that was attached came as a whole, before anybody could see it.
  if (attached_body(oc) != nullptr) {
    const int answer = whole(wrk, oc, priv, func, final);
    varnish.HSH_DerefBoc(wrk, oc);
    return answer;
  }
  const int answer = streaming(wrk, oc, boc, priv, func, final);
  varnish.HSH_DerefBoc(wrk, oc);
  return answer;
}

}  // namespace om::vmod
