// verify.cc: verify = on_read. A body that survived a restart is compared with its checksum once,
// before it is handed on for the first time in this process.
//
// Bits of stobj->priv2 of an adopted object: kUnverified -> 0 when it is good, -> kDamaged for good
// when it is not. Several threads may compare the same body at once; that costs time and nothing
// else.
//
// Varnish has no way back from a hit to a miss. But it touches an object (objtouch) right before it
// decodes the headers for a delivery, on the same thread, and goes to vcl_synth when they cannot be
// decoded: status 500, nothing sent yet, and `return (restart)` there finds the object removed and
// fetches. objmapper.vcl does that, by objmapper.damaged(). A fetch that would revalidate the
// object looks at its flags first, and finds nothing to revalidate: it fetches everything.
#include <syslog.h>

#include "methods.h"
#include "region/record.h"

namespace om::vmod {

using abi::varnish;

namespace {

// More headers than any http structure has place for: HTTP_Decode refuses it by the first number.
constexpr std::array<std::byte, 8> kRefusedHeaders = {std::byte{0xff}, std::byte{0xff}};

struct Refusal {
  const struct objcore* oc = nullptr;  // whose headers are asked for next
  const struct req* req = nullptr;
  std::uint64_t xid = 0;
  unsigned restarts = 0;
};
thread_local Refusal refusal;

std::atomic_ref<std::uintptr_t> word_of(struct objcore* oc) {
  return std::atomic_ref<std::uintptr_t>(oc->stobj->priv2);
}

void remove(Store& store, struct objcore* oc) {
  region::Record& record = record_of(oc);
  store.region()->mark_removed(record);
  count(store.counters().c_verify_failed);
  if (const AttachedBody* attached = attached_body(oc)) attached->remove_source();
  const std::string_view path = url(record);
  notice(LOG_WARNING, &store,
         "a body is not the one that was stored, the object is removed: " +
             std::string(host(record)) + std::string(path.substr(0, 512)));
  varnish.HSH_Kill(oc);
}

}  // namespace

void disk_read_failed(Store& store, struct objcore* oc, int error) {
  count(store.counters().c_disk_read_errors);
  // One that is being fetched has a record that nobody can find yet; its fetch goes on.
  if (oc->boc != nullptr) return;
  // The first to know is the one to say so. An attached body stays attached until the object goes.
  if (attached_body(oc) == nullptr &&
      word_of(oc).exchange(kDamaged, std::memory_order_acq_rel) == kDamaged)
    return;
  region::Record& record = record_of(oc);
  store.region()->mark_removed(record);
  const std::string_view path = url(record);
  notice(LOG_WARNING, &store,
         std::string("a body cannot be read (") +
             std::strerror(error) +  // NOLINT(concurrency-mt-unsafe): a buffer for each thread
             "), the object is removed: " + std::string(host(record)) +
             std::string(path.substr(0, 512)));
  if (const AttachedBody* attached = attached_body(oc)) attached->remove_source();
  varnish.HSH_Kill(oc);
}

const char* to_string(Verify verify) {
  switch (verify) {
    case Verify::kNone: return "none";
    case Verify::kOnAdopt: return "on_adopt";
    case Verify::kOnRead: return "on_read";
  }
  return "?";
}

void verify_before_use(struct objcore* oc) {
  if ((record_of(oc).flags & region::kHasBodyChecksum) != 0) oc->stobj->priv2 |= kUnverified;
}

namespace {

bool is_what_was_stored(const Store& store, const struct objcore* oc) {
  const AttachedBody* attached = attached_body(oc);
  if (attached == nullptr) return store.region()->verify_body(record_of(oc));
  const auto view = attached->view();
  return view && checks_out(*view, record_of(oc));
}

}  // namespace

bool body_is_good(struct objcore* oc) {
  auto word = word_of(oc);
  std::uintptr_t seen = word.load(std::memory_order_acquire);
  if ((seen & kVerifyMask) == kDamaged) return false;
  if ((seen & kVerifyMask) != kUnverified) return true;
  Store& store = *Store::of(oc);
  const bool good = is_what_was_stored(store, oc);
  // The first to know is the one to say so.
  if (word.compare_exchange_strong(seen, (seen & ~kVerifyMask) | (good ? 0 : kDamaged),
                                   std::memory_order_acq_rel)) {
    count(store.counters().c_verified);
    if (!good) remove(store, oc);
  }
  return good;
}

namespace {

// A file that is gone is found out before anything is sent; its descriptor is wanted now anyway.
bool file_is_there(struct objcore* oc) {
  if (oc->boc != nullptr || attached_body(oc) != nullptr) return true;
  const auto ref = file_of(record_of(oc));
  if (!ref) return true;
  Store& store = *Store::of(oc);
  region::BodyFiles& files = *store.region()->files();
  const auto file = files.pin(*ref);
  gauge(store.counters().g_disk_fds, files.descriptors());
  gauge(store.counters().c_disk_reopened, files.counters().reopened.load());
  if (file) return true;
  // Too many descriptors in this process are no fault of the object's.
  if (file.error().sys_errno == EMFILE || file.error().sys_errno == ENFILE) return true;
  disk_read_failed(store, oc, file.error().sys_errno != 0 ? file.error().sys_errno : EIO);
  return false;
}

}  // namespace

void check_before_delivery(struct objcore* oc) {
  refusal.oc = nullptr;
  if (body_is_good(oc) && file_is_there(oc)) return;
  const struct req* req = varnish.THR_GetRequest();
  refusal = {oc, req, req == nullptr ? 0 : VXID(req->vsl->wid),
             req == nullptr ? 0U : static_cast<unsigned>(req->restarts)};
}

std::span<const std::byte> refused_headers(const struct objcore* oc) {
  if (refusal.oc != oc) return {};
  refusal.oc = nullptr;
  return kRefusedHeaders;
}

bool refused_as_template(struct objcore* oc) {
  if ((word_of(oc).load(std::memory_order_relaxed) & kVerifyMask) == 0) return false;
  const struct busyobj* bo = varnish.THR_GetBusyobj();
  return bo != nullptr && bo->stale_oc == oc && !body_is_good(oc);
}

bool was_refused(const struct req* req) {
  return refusal.req == req && req != nullptr && refusal.xid == VXID(req->vsl->wid) &&
         refusal.restarts == static_cast<unsigned>(req->restarts);
}

}  // namespace om::vmod
