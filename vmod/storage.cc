#include "storage.h"

#include <syslog.h>

#include "link.h"
#include "methods.h"
#include "redirect.h"

namespace om::vmod {

using abi::varnish;

namespace {

constexpr char kTypeName[] = "objmapper";

int allocobj(struct worker* wrk, const struct stevedore* stv, struct objcore* oc,
             unsigned wsl) noexcept {
  auto& store = *static_cast<Store*>(stv->priv);
  if (store.allocate(wrk, oc, wsl)) return 1;
  return redirect::allocate_elsewhere(wrk, oc, wsl);
}

// Receive buffers of HTTP/2 live as long as a request: process memory, not the region's.
void* allocbuf(struct worker* /*wrk*/, const struct stevedore* /*stv*/, size_t size,
               uintptr_t* priv) noexcept {
  void* buffer = std::malloc(size);
  *priv = reinterpret_cast<uintptr_t>(buffer);
  return buffer;
}

void freebuf(struct worker* /*wrk*/, const struct stevedore* /*stv*/, uintptr_t priv) noexcept {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): Varnish keeps it as a number
  std::free(reinterpret_cast<void*>(priv));
}

VCL_BYTES var_free_space(const struct stevedore* stv) noexcept {
  const region::Region* region = static_cast<Store*>(stv->priv)->region();
  return region == nullptr ? 0 : static_cast<VCL_BYTES>(region->allocator().free_bytes());
}

VCL_BYTES var_used_space(const struct stevedore* stv) noexcept {
  const region::Region* region = static_cast<Store*>(stv->priv)->region();
  return region == nullptr ? 0 : static_cast<VCL_BYTES>(region->allocator().used_bytes());
}

VCL_BOOL var_happy(const struct stevedore* stv) noexcept {
  return static_cast<Store*>(stv->priv)->happy() ? 1 : 0;
}

void panic(struct vsb* vsb, const struct objcore* oc) noexcept {
  const Store* store = Store::of(oc);
  if (store == nullptr || store->region() == nullptr || oc->stobj->priv == nullptr) return;
  const region::Region& region = *store->region();
  const region::Record& record = record_of(oc);
  VSB_printf(vsb, "objmapper = %p {store = %s, offset = %ju, bytes = %u, extents = %u,\n",
             oc->stobj->priv, store->config().name.c_str(),
             static_cast<uintmax_t>(region.offset_of(&record)), record.record_bytes,
             record.extent_count);
  VSB_printf(vsb, "body_length = %ju, slot = %ju},\n", static_cast<uintmax_t>(record.body_length),
             static_cast<uintmax_t>(record.slot.load()));
}

}  // namespace

Store::Store(StoreConfig config) : config_(std::move(config)), vclname_("storage." + config_.name) {
  counters_ = VSC_objm_New(nullptr, &counters_segment_, "%s", config_.name.c_str());
  for (struct stevedore& stv : stvs_) fill(stv);
  link_ = std::make_unique<Link>(*this);
}

void Store::fill(struct stevedore& stv) {
  stv.magic = OM_STEVEDORE_MAGIC;
  stv.name = kTypeName;
  stv.allocobj = allocobj;
  stv.panic = panic;
  stv.allocbuf = allocbuf;
  stv.freebuf = freebuf;
  stv.methods = &kMethods;
  stv.lru = varnish.LRU_Alloc();
  stv.var_free_space = var_free_space;
  stv.var_used_space = var_used_space;
  stv.var_happy = var_happy;
  stv.priv = this;
  stv.ident = config_.name.c_str();
  stv.vclname = vclname_.c_str();
}

void Store::place(const struct objcore* oc, Place place) {
  // Readers that stream look through it at the methods, which are the same.
  std::atomic_ref(const_cast<struct storeobj*>(oc->stobj)->stevedore)
      .store(stv(place), std::memory_order_release);
}

bool Store::is_on_disk(const struct objcore* oc) const {
  return std::atomic_ref(const_cast<struct storeobj*>(oc->stobj)->stevedore)
             .load(std::memory_order_relaxed) == &stvs_[static_cast<unsigned>(Place::kFile)];
}

Store::~Store() {
  link_.reset();
  if (counters_segment_ != nullptr) VSC_objm_Destroy(&counters_segment_);
}

void Store::take(std::unique_ptr<region::Region> region) {
  owned_region_ = std::move(region);
  // What is there already counts as allocated: then allocated - freed = outstanding.
  adopted_bytes_ = owned_region_->allocator().used_bytes();
  region_.store(owned_region_.get(), std::memory_order_release);
  gauge(counters_->g_region, 1);
  update_gauges();
}

bool Store::allocate(struct worker* wrk, struct objcore* oc, unsigned wsl) noexcept {
  switch (allocate_object(wrk, *this, oc, wsl)) {
    case Refusal::kNone: return true;
    case Refusal::kNoRegion: count(counters_->c_fallback_no_region); break;
    case Refusal::kDrained: count(counters_->c_fallback_drained); break;
    case Refusal::kTooLarge: count(counters_->c_fallback_too_large); break;
    case Refusal::kNoSpace: count(counters_->c_fallback_no_space); break;
  }
  return false;
}

void Store::update_gauges() {
  const region::Region* region = this->region();
  if (region == nullptr) return;
  const std::uint64_t used = region->allocator().used_bytes();
  gauge(counters_->g_bytes, used);
  gauge(counters_->g_space, region->allocator().free_bytes());
  const std::uint64_t allocated = region->allocator().allocated_bytes() + adopted_bytes_;
  gauge(counters_->g_alloc, region->allocator().blocks());
  gauge(counters_->c_bytes, allocated);
  gauge(counters_->c_freed, allocated > used ? allocated - used : 0);
  region::BodyFiles* files = owned_region_->files();
  if (files == nullptr) return;
  const std::uint64_t on_disk = files->used_bytes();
  gauge(counters_->g_disk_bytes, on_disk);
  gauge(counters_->g_disk_space, files->capacity() > on_disk ? files->capacity() - on_disk : 0);
  gauge(counters_->g_disk_bodies, files->files());
  gauge(counters_->g_disk_fds, files->descriptors());
  const std::uint64_t written = files->counters().written_bytes.load();
  const std::uint64_t served =
      std::atomic_ref(counters_->c_disk_served).load(std::memory_order_relaxed);
  gauge(counters_->c_disk_written, written);
  gauge(counters_->g_disk_written_per_1000, served == 0 ? 0 : written * 1000 / served);
  gauge(counters_->g_page_cache_budget, popularity_.budget_bytes());
  gauge(counters_->c_disk_reopened, files->counters().reopened.load());
  gauge(counters_->c_disk_write_errors, files->counters().write_errors.load());
  gauge(counters_->c_disk_orphans, files->counters().orphans.load());
}

Store* Store::of(const struct stevedore* stv) {
  return stv != nullptr && stv->methods == &kMethods ? static_cast<Store*>(stv->priv) : nullptr;
}

void notice(int priority, const Store* store, std::string_view text) {
  const char* name = store == nullptr ? "" : store->config().name.c_str();
  const char* colon = store == nullptr ? "" : ": ";
  const int length = static_cast<int>(text.size());
  syslog(priority, "objmapper: %s%s%.*s", name, colon, length, text.data());
  VSL(SLT_Error, 0, "objmapper: %s%s%.*s", name, colon, length, text.data());
}

}  // namespace om::vmod
