#include "redirect.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "methods.h"

namespace om::vmod {

using abi::varnish;

namespace redirect {

namespace {

using AllocObj = int (*)(struct worker*, const struct stevedore*, struct objcore*, unsigned);

struct Replaced {
  const struct stevedore* stv;
  AllocObj original;
};
// Filled by install() before the first pointer is replaced; never changed again.
std::vector<Replaced> replaced;

struct Default {
  const struct vcl* vcl;
  Store* store;
};
std::vector<Default> defaults;
pthread_rwlock_t defaults_lock = PTHREAD_RWLOCK_INITIALIZER;

std::atomic<Store*> default_for_all{nullptr};

}  // namespace

Store* default_of(const struct vcl* vcl) {
  Store* found = default_for_all.load(std::memory_order_acquire);
  pthread_rwlock_rdlock(&defaults_lock);
  for (const Default& one : defaults)
    if (one.vcl == vcl) found = one.store;
  pthread_rwlock_unlock(&defaults_lock);
  return found;
}

namespace {

AllocObj original_of(const struct stevedore* stv) {
  for (const Replaced& one : replaced)
    if (one.stv == stv) return one.original;
  return stv->allocobj;
}

// The default store of the VCL that fetches, when there is one and it takes the object.
bool try_default(struct worker* wrk, struct objcore* oc, unsigned wsl) noexcept {
  const struct busyobj* bo = varnish.THR_GetBusyobj();
  if (bo == nullptr || bo->fetch_objcore != oc) return false;
  Store* store = default_of(bo->vcl);
  return store != nullptr && store->allocate(wrk, oc, wsl);
}

void restore_nuke_limit(struct worker* wrk) {
  wrk->strangelove = static_cast<int>((*varnish.cache_param)->nuke_limit);
}

int redirected_allocobj(struct worker* wrk, const struct stevedore* stv, struct objcore* oc,
                        unsigned wsl) noexcept {
  if (try_default(wrk, oc, wsl)) return 1;
  restore_nuke_limit(wrk);
  return original_of(stv)(wrk, stv, oc, wsl);
}

}  // namespace

void set_default(const struct vcl* vcl, Store& store) {
  install();
  pthread_rwlock_wrlock(&defaults_lock);
  std::erase_if(defaults, [&](const Default& one) { return one.vcl == vcl; });
  defaults.push_back({vcl, &store});
  pthread_rwlock_unlock(&defaults_lock);
}

void set_default_for_all(Store& store) {
  install();
  default_for_all.store(&store, std::memory_order_release);
}

void forget(const struct vcl* vcl) {
  pthread_rwlock_wrlock(&defaults_lock);
  std::erase_if(defaults, [&](const Default& one) { return one.vcl == vcl; });
  pthread_rwlock_unlock(&defaults_lock);
}

void install() {
  static bool done = false;
  if (done) return;
  done = true;
  std::vector<struct stevedore*> all;
  struct stevedore* one = nullptr;
  while (varnish.STV__iter(&one) != 0)
    if (one != *varnish.stv_transient && Store::of(one) == nullptr &&
        one->allocobj != fallback_allocobj)
      all.push_back(one);
  for (struct stevedore* stv : all) replaced.push_back({stv, stv->allocobj});
  for (struct stevedore* stv : all)
    std::atomic_ref<AllocObj>(stv->allocobj).store(redirected_allocobj);
}

int allocate_elsewhere(struct worker* wrk, struct objcore* oc, unsigned wsl) {
  restore_nuke_limit(wrk);
  // Our own entries of the list, if any, are few.
  for (int tries = 0; tries < 64; ++tries) {
    const struct stevedore* stv = varnish.STV_next();
    if (Store::of(stv) != nullptr || stv->allocobj == fallback_allocobj) continue;
    return original_of(stv)(wrk, stv, oc, wsl);
  }
  return 0;
}

}  // namespace redirect

int fallback_allocobj(struct worker* wrk, const struct stevedore* /*stv*/, struct objcore* oc,
                      unsigned wsl) {
  if (redirect::try_default(wrk, oc, wsl)) return 1;
  return redirect::allocate_elsewhere(wrk, oc, wsl);
}

}  // namespace om::vmod
