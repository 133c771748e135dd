// methods.cc: an object's way through the store, in the order in which Varnish calls.
//
//   allocobj       record in the region, Fetch on the boc
//   objsetattr     into the record; it never moves
//   objgetspace    the room that is left in the last piece, or another piece of at most 2 MiB
//   objextend      publishes bytes to readers (boc->mtx held)
//   objtrimstore   gives back what the last piece did not need
//   objsetstate    FINISHED: the record takes the body, is sealed and, when cacheable, published;
//                  FAILED: the record takes what came, for readers that are late
//   objbocdone     the Fetch goes, the LRU list takes the object (not an adopted one: attach.cc)
//   objslim        body gone, attributes stay
//   objfree        all gone
//
// No exception leaves a callback; no callback waits for anything but locks of ours held briefly.
#include "methods.h"

#include <algorithm>
#include <new>

#include "base/limits.h"
#include "landing.h"
#include "lease_body.h"
#include "removal_index.h"
#include "settings.h"

namespace om::vmod {

using abi::varnish;

namespace {

// Objects that do not survive a restart.
constexpr unsigned kNeverLasts = OC_F_PRIVATE | OC_F_HFM | OC_F_HFP | OC_F_FAILED | OC_F_DYING;

Store& store_of(const struct objcore* oc) {
  return *static_cast<Store*>(oc->stobj->stevedore->priv);
}

std::string_view text_of(const txt& t) {
  return t.b == nullptr ? std::string_view{}
                        : std::string_view(t.b, static_cast<std::size_t>(t.e - t.b));
}

bool named(struct worker* wrk, AttachedBody& body, region::Record& record) noexcept try {
  return body.name(wrk, record);
} catch (const std::exception&) {
  return false;  // out of memory
}

// Complete: from here on a restart finds it.
void publish(struct worker* wrk, Store& store, const struct objcore* oc) noexcept {
  if ((oc->flags & kNeverLasts) != 0) return;
  region::Region& region = *store.region();
  region::Record& record = record_of(oc);
  if (AttachedBody* body = attached_body(oc); body != nullptr && !named(wrk, *body, record)) {
    count(store.counters().c_unpublished);
    return;
  }
  record.oa_present = oc->oa_present;
  set_timers(record, {oc->t_origin, oc->ttl, oc->grace, oc->keep});
  region::store_double(record.last_used, VTIM_real());
  // The ban that it was tested against may be merged into another and freed meanwhile.
  Lck_Lock(varnish.ban_mtx);
  if (oc->ban != nullptr) region::store_double(record.ban_time, varnish.BAN_Time(oc->ban));
  Lck_Unlock(varnish.ban_mtx);
  region.seal(record);
  // What is evicted gives its place in the index back.
  bool published = region.publish(record);
  while (!published && nuke(wrk, store, Place::kMemory)) published = region.publish(record);
  if (!published) {
    count(store.counters().c_unpublished);
    return;
  }
  auto* mutable_oc = const_cast<struct objcore*>(oc);
  adoption::published(store, mutable_oc, record);
  // Purged while we were at it.
  if ((oc->flags & OC_F_DYING) != 0) region.mark_removed(record);
}

void objfree(struct worker* wrk, struct objcore* oc) noexcept {
  Store& store = store_of(oc);
  region::Region& region = *store.region();
  region::Record& record = record_of(oc);
  adoption::freed(store, oc, record);
  if (oc->boc == nullptr) {
    varnish.LRU_Remove(oc);
  } else if (Fetch* fetch = Fetch::of(oc->boc); fetch != nullptr) {
    give_up(region, *fetch);
    delete fetch;
    oc->boc->stevedore_priv = nullptr;
  }
  delete attached_body(oc);
  region.destroy(&record);
  std::memset(oc->stobj, 0, sizeof oc->stobj);
  abi::n_object_decrement(wrk);
  uncount(store.counters().g_objects);
  store.update_gauges();
}

int objgetspace(struct worker* wrk, struct objcore* oc, ssize_t* size, uint8_t** ptr) noexcept {
  Store& store = store_of(oc);
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr || fetch->settled) return 0;
  if (lease_body::give_scrap(oc, size, ptr)) return 1;
  std::span<std::byte> space;
  if (!more_space(wrk, store, oc, *fetch, static_cast<std::uint64_t>(*size), space)) {
    count(store.counters().c_fail);
    count(store.counters().c_body_failed);
    return 0;
  }
  store.update_gauges();
  *size = static_cast<ssize_t>(space.size());
  *ptr = reinterpret_cast<uint8_t*>(space.data());
  return 1;
}

void objextend(struct worker* /*wrk*/, struct objcore* oc, ssize_t length) noexcept {
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr || fetch->settled) return;  // a shared body comes with its lengths
  extend(*fetch, static_cast<std::uint64_t>(length));
}

constexpr std::uint8_t kNoFlags = 0;

const void* objgetattr(struct worker* /*wrk*/, struct objcore* oc, enum obj_attr attr,
                       ssize_t* length) noexcept {
  ssize_t ignored = 0;
  if (length == nullptr) length = &ignored;
  const region::Record& record = record_of(oc);
  const auto give = [&](const void* at, std::size_t bytes) -> const void* {
    *length = static_cast<ssize_t>(bytes);
    return bytes == 0 ? nullptr : at;
  };
  switch (attr) {
    case OA_LEN: return give(record.fixed.len.data(), 8);
    case OA_VXID: return give(record.fixed.vxid.data(), 4);
    case OA_FLAGS:
      if (refused_as_template(oc)) return give(&kNoFlags, 1);
      return give(record.fixed.flags.data(), 1);
    case OA_GZIPBITS: return give(record.fixed.gzipbits.data(), 32);
    case OA_LASTMODIFIED: return give(record.fixed.lastmodified.data(), 8);
    case OA_VARY:
    case OA_HEADERS: {
      if (attr == OA_HEADERS)
        if (const auto refused = refused_headers(oc); !refused.empty())
          return give(refused.data(), refused.size());
      const auto bytes =
          variable(record, attr == OA_VARY ? region::Variable::kVary : region::Variable::kHeaders);
      return give(bytes.data(), bytes.size());
    }
    case OA_ESIDATA:
      return give(store_of(oc).region()->pointer(record.esi_offset), record.esi_length);
    default: return give(nullptr, 0);
  }
}

void* objsetattr(struct worker* wrk, struct objcore* oc, enum obj_attr attr, ssize_t length,
                 const void* bytes) noexcept {
  region::Record& record = record_of(oc);
  void* place = nullptr;
  switch (attr) {
    case OA_LEN: place = record.fixed.len.data(); break;
    case OA_VXID: place = record.fixed.vxid.data(); break;
    case OA_FLAGS: place = record.fixed.flags.data(); break;
    case OA_GZIPBITS: place = record.fixed.gzipbits.data(); break;
    case OA_LASTMODIFIED: place = record.fixed.lastmodified.data(); break;
    case OA_VARY:
    case OA_HEADERS:
      if (length > 0)
        place = set_variable(record,
                             attr == OA_VARY ? region::Variable::kVary : region::Variable::kHeaders,
                             static_cast<std::uint32_t>(length));
      break;
    case OA_ESIDATA: {
      if (length <= 0) break;
      Store& store = store_of(oc);
      if (record.esi_length == static_cast<std::uint32_t>(length)) {
        place = store.region()->pointer(record.esi_offset);
        break;
      }
      do place = store.region()->attach_esi(record, static_cast<std::uint32_t>(length));
      while (place == nullptr && nuke(wrk, store, Place::kMemory));
      break;
    }
    default: break;
  }
  if (place != nullptr && bytes != nullptr)
    std::memcpy(place, bytes, static_cast<std::size_t>(length));
  return place;
}

void objtrimstore(struct worker* wrk, struct objcore* oc) noexcept {
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr) return;
  Store& store = store_of(oc);
  trim(wrk, store, oc, *fetch);
  store.update_gauges();
}

void objsetstate(struct worker* wrk, const struct objcore* oc, enum boc_state_e next) noexcept {
  // The fetch is the one that changes the object, whatever the type says.
  if (next == BOS_PREP_STREAM)
    return removal_index::before_use(wrk, const_cast<struct objcore*>(oc));
  if (next != BOS_FINISHED && next != BOS_FAILED) return;
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr) return;  // adopted
  Store& store = store_of(oc);
  trim(wrk, store, oc, *fetch);
  settle(wrk, store, oc, *fetch, next == BOS_FINISHED && (oc->flags & kNeverLasts) == 0);
  if (next == BOS_FINISHED) publish(wrk, store, oc);
}

void objbocdone(struct worker* wrk, struct objcore* oc, struct boc* boc) noexcept {
  Store& store = store_of(oc);
  Fetch* fetch = Fetch::of(boc);
  if (fetch == nullptr) return;  // adopted: attach.cc knows its place in the LRU list
  if (!fetch->settled) {
    // Request bodies and the like never reach FINISHED, and are whole nevertheless.
    trim(wrk, store, oc, *fetch);
    settle(wrk, store, oc, *fetch, false);
  }
  give_up(*store.region(), *fetch);
  delete fetch;
  boc->stevedore_priv = nullptr;
  store.update_gauges();
  vtim_real now = wrk->lastused;
  if (std::isnan(now) || now == 0.) now = VTIM_real();
  varnish.LRU_Add(oc, now);
}

void objslim(struct worker* /*wrk*/, struct objcore* oc) noexcept {
  Store& store = store_of(oc);
  region::Region& region = *store.region();
  if (AttachedBody* body = attached_body(oc); body != nullptr) {
    delete body;
    oc->stobj->priv2 = 0;
  }
  region.drop_body(record_of(oc));
  store.update_gauges();
}

void objtouch(struct worker* wrk, struct objcore* oc, vtim_real now) noexcept {
  // As often as LRU_Touch moves it: the order of the list survives with the objects.
  if (now - oc->last_lru >= (*varnish.cache_param)->lru_interval)
    region::store_double(record_of(oc).last_used, now);
  varnish.LRU_Touch(wrk, oc, now);
  check_before_delivery(oc);
}

}  // namespace

Refusal allocate_object(struct worker* wrk, Store& store, struct objcore* oc, unsigned wsl) {
  region::Region* region = store.region();
  if (region == nullptr) return Refusal::kNoRegion;
  if (store.draining()) return Refusal::kDrained;
  VSC_objm& counters = store.counters();
  count(counters.c_req);

  region::RecordPlan plan;
  plan.attribute_bytes = wsl;
  std::uint64_t expected = 0;
  std::uint64_t file_from = 0;
  bool length_known = false;
  bool gzips = false;
  bool refreshes = false;
  ssize_t esi_bytes = 0;
  if (const struct busyobj* bo = varnish.THR_GetBusyobj();
      bo != nullptr && bo->fetch_objcore == oc) {
    static_assert(sizeof bo->digest == sizeof plan.digest);
    std::memcpy(plan.digest.data(), bo->digest, sizeof bo->digest);
    plan.vxid = VXID(bo->vsl->wid);
    const struct http* request = bo->bereq0 != nullptr ? bo->bereq0 : bo->bereq;
    plan.url = text_of(request->hd[HTTP_HDR_URL]).substr(0, kKeyBytesMax);
    const char* host = nullptr;
    if (http_GetHdr(request, H_Host, &host) != 0 && host != nullptr)
      plan.host = std::string_view(host).substr(0, 255);
    gzips = bo->do_gzip != 0;
    // It will share the body that it refreshes.
    refreshes = bo->was_304 != 0;
    if (refreshes && bo->stale_oc != nullptr && ObjHasAttr(wrk, bo->stale_oc, OA_ESIDATA) != 0)
      (void)ObjGetAttr(wrk, bo->stale_oc, OA_ESIDATA, &esi_bytes);
    const region::Allocator& memory = region->allocator();
    file_from =
        settings::of(bo->vcl, store).policy.file_from(memory.used_bytes(), memory.heap_bytes());
    gauge(counters.g_disk_from, file_from);
    const char* announced = nullptr;
    if (bo->beresp != nullptr && http_GetHdr(bo->beresp, H_Content_Length, &announced) != 0) {
      length_known = true;
      if (!lease_body::expected(oc)) expected = std::strtoull(announced, nullptr, 10);
    }
  }
  // More than the whole store: all would be evicted, and the fetch would fail nevertheless.
  const bool fits_memory = expected <= region->allocator().heap_bytes();
  // Compressed it will be less, nobody knows how much.
  if (gzips) expected = 0;
  bool to_disk = file_from != 0 && expected >= file_from && !refreshes;
  // There must be a place for it where it does not come to that.
  if (!fits_memory) landing::forget(oc);
  if (landing::expected(oc)) to_disk = false;
  if (!fits_memory && !to_disk && !refreshes) return Refusal::kTooLarge;

  region::Record* record = region->create(plan);
  while (record == nullptr && nuke(wrk, store, Place::kMemory)) record = region->create(plan);
  // Varnish copies this right after, and does not expect that there may be no room for it.
  if (record != nullptr && esi_bytes > 0) {
    while (region->attach_esi(*record, static_cast<std::uint32_t>(esi_bytes)) == nullptr &&
           nuke(wrk, store, Place::kMemory)) {
    }
    if (record->esi_offset == 0) {
      region->destroy(record);
      record = nullptr;
    }
  }
  auto* fetch = record == nullptr ? nullptr : new (std::nothrow) Fetch;
  if (fetch == nullptr) {
    if (record != nullptr) region->destroy(record);
    count(counters.c_fail);
    return Refusal::kNoSpace;
  }
  fetch->length_known = length_known;
  fetch->gzips = gzips;
  fetch->expected = expected;
  fetch->file_from = file_from;
  fetch->checksum = store.config().verify != Verify::kNone;
  oc->stobj->stevedore = store.stv();
  // Now, while the object can still go elsewhere.
  if (to_disk && !disk::start(wrk, store, oc, *fetch) &&
      !(fits_memory && first_piece(wrk, store, oc, *fetch))) {
    region->destroy(record);
    delete fetch;
    std::memset(oc->stobj, 0, sizeof oc->stobj);
    if (!fits_memory) return Refusal::kTooLarge;
    count(counters.c_fail);
    return Refusal::kNoSpace;
  }
  count(counters.g_objects);
  oc->boc->stevedore_priv = fetch;
  oc->stobj->priv = record;
  oc->stobj->priv2 = 0;
  store.update_gauges();
  return Refusal::kNone;
}

void attach_record(struct worker* wrk, Store& store, struct objcore* oc, region::Record& record) {
  store.place(oc, (record.flags & region::kBodyInFile) != 0 ? Place::kFile : Place::kMemory);
  oc->stobj->priv = &record;
  oc->stobj->priv2 = 0;
  oc->oa_present = static_cast<std::uint16_t>(record.oa_present);
  const region::Timers saved = timers(record);
  oc->t_origin = saved.t_origin;
  oc->ttl = saved.ttl;
  oc->grace = saved.grace;
  oc->keep = saved.keep;
  oc->boc->len_so_far = record.body_length;
  abi::n_object_increment(wrk);
  count(store.counters().g_objects);
}

const struct obj_methods kMethods = {
    .objfree = objfree,
    .objiterator = iterate,
    .objgetspace = objgetspace,
    .objextend = objextend,
    .objgetattr = objgetattr,
    .objsetattr = objsetattr,
    .objtrimstore = objtrimstore,
    .objbocdone = objbocdone,
    .objslim = objslim,
    .objtouch = objtouch,
    .objsetstate = objsetstate,
};

}  // namespace om::vmod
