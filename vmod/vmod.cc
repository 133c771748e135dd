// vmod.cc: what VCL sees. Everything here runs on the CLI thread, but for the methods that VCL
// calls in requests, which only read.
#include <syslog.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "director.h"
#include "link.h"
#include "redirect.h"
#include "removal_index.h"
#include "removal_link.h"
#include "settings.h"
#include "storage.h"
#include "tee.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include "vcc_objmapper_if.h"
#pragma GCC diagnostic pop
}

namespace om::vmod {
namespace {

// One for each store name; they stay for good.
std::vector<std::unique_ptr<Store>>& stores() {
  static auto* all = new std::vector<std::unique_ptr<Store>>;  // never destroyed: threads use them
  return *all;
}

}  // namespace

std::string instance_name() {
  char directory[4096];
  if (getcwd(directory, sizeof directory) == nullptr) return "varnishd";
  std::string name = directory;
  constexpr std::string_view kUsual = "/var/lib/varnish/";
  if (name.starts_with(kUsual)) name.erase(0, kUsual.size());
  return name;
}

namespace {

std::string differences(const StoreConfig& have, const StoreConfig& want) {
  std::string text;
  const auto add = [&](const char* what, const std::string& is, const std::string& asked) {
    if (is == asked) return;
    if (!text.empty()) text += ", ";
    text += std::string(what) + " is " + is + ", not " + asked;
  };
  add("socket", have.socket, want.socket);
  add("memory", format_size(have.memory_bytes), format_size(want.memory_bytes));
  add("verify", to_string(have.verify), to_string(want.verify));
  // disk = 0 is a policy, too: this VCL puts no body there.
  if (want.disk_bytes != 0) add("disk", format_size(have.disk_bytes), format_size(want.disk_bytes));
  return text;
}

}  // namespace

namespace {

// A changed library file is another library to the dynamic linker, with statics of its own; the one
// before stays, because its objects do. Two of them would both want the same regions. Each leaves a
// stevedore in Varnish's list by which the next one finds it.
bool another_build_is_in_use() {
  struct stevedore* one = nullptr;
  while (abi::varnish.STV__iter(&one) != 0)
    if (std::string_view(one->ident).starts_with("objmapper") &&
        one->allocobj != fallback_allocobj && Store::of(one) == nullptr)
      return true;
  return false;
}

}  // namespace

void count_mismatch(const std::string& store_name) {
  // Never destroyed, as the counters of a store.
  static auto* all = new std::map<std::string, VSC_objm*>;
  VSC_objm*& counters = (*all)[store_name];
  if (counters == nullptr) {
    struct vsc_seg* segment = nullptr;
    counters = VSC_objm_New(nullptr, &segment, "%s", store_name.c_str());
  }
  if (counters != nullptr) count(counters->c_fallback_mismatch);
}

Store* store_for(StoreConfig config, std::string& refusal) {
  for (const auto& store : stores()) {
    if (store->config().name != config.name) continue;
    if (const std::string other = differences(store->config(), config); !other.empty())
      notice(LOG_WARNING, store.get(),
             "is in use as it was made first: " + other + " (changes with a restart of varnishd)");
    return store.get();
  }
  if (another_build_is_in_use()) {
    refusal =
        "another build of vmod_objmapper is in use in this varnishd and holds the objects; "
        "restart varnishd to change it (the objects survive that)";
    return nullptr;
  }
  static bool process_started = false;
  if (!process_started) {
    process_started = true;
    adoption::start_process();
  }
  auto store = std::make_unique<Store>(std::move(config));
  Link::FirstGrant grant = store->link().first_grant();
  if (!grant.refusal.empty()) {
    refusal = "objmapperd refuses memory = " + format_size(store->config().memory_bytes);
    if (store->config().disk_bytes > 0)
      refusal += ", disk = " + format_size(store->config().disk_bytes);
    refusal += ": " + grant.refusal;
    return nullptr;
  }
  Store* made = store.get();
  stores().push_back(std::move(store));
  if (grant.region) adoption::prepare(*made, std::move(grant.region), true);
  return made;
}

}  // namespace om::vmod

using om::vmod::Store;

// What a VCL holds: the name of a store.
struct vmod_objmapper_storage {
  unsigned magic;
#define VMOD_OBJMAPPER_STORAGE_MAGIC 0x6f6d7301
  Store* store;  // nullptr: this varnishd is not one that we know (on_mismatch = passthrough)
};

extern "C" {

int vmod_event(VRT_CTX, struct vmod_priv* /*priv*/, enum vcl_event_e event) {
  if (event == VCL_EVENT_DISCARD && om::abi::check().empty()) {
    om::vmod::redirect::forget(ctx->vcl);
    om::vmod::settings::forget(ctx->vcl);
    om::vmod::director::forget(ctx->vcl);
    om::vmod::RemovalLink::forget(ctx->vcl);
    om::vmod::tee::forget(ctx->vcl);
    VRT_RemoveVFP(ctx, &om::vmod::tee::kFilter);
  }
  if (event == VCL_EVENT_WARM && om::abi::check().empty()) {
    try {
      om::vmod::RemovalLink::start();
    } catch (const std::exception& failure) {
      VRT_fail(ctx, "objmapper: cannot learn of removals: %s", failure.what());
      return 1;
    }
  }
  if (event == VCL_EVENT_LOAD && om::abi::check().empty()) {
    // Before vcl_init, and so before the first object.
    om::vmod::removal_index::subscribe();
    VRT_AddVFP(ctx, &om::vmod::tee::kFilter);
  }
  return 0;
}

VCL_VOID vmod_storage__init(VRT_CTX, struct vmod_objmapper_storage** handle, const char* vcl_name,
                            VCL_STRING socket, VCL_BYTES memory, VCL_BYTES disk, VCL_ENUM mode,
                            VCL_BYTES threshold, VCL_ENUM delivery, VCL_ENUM verify,
                            VCL_ENUM on_mismatch, VCL_DURATION adopt_within) {
  using om::format_size;
  if (memory < static_cast<VCL_BYTES>(om::region::kRegionBytesMin)) {
    VRT_fail(ctx, "objmapper.storage %s: memory = %s is too little, the least is %s", vcl_name,
             format_size(static_cast<std::uint64_t>(memory < 0 ? 0 : memory)).c_str(),
             format_size(om::region::kRegionBytesMin).c_str());
    return;
  }
  if (!(adopt_within >= 0)) {
    VRT_fail(ctx, "objmapper.storage %s: adopt_within cannot be negative", vcl_name);
    return;
  }
  if (threshold < 0 || disk < 0) {
    VRT_fail(ctx, "objmapper.storage %s: a size cannot be negative", vcl_name);
    return;
  }
  om::vmod::Policy policy;
  policy.mode = mode == VENUM(mapped)   ? om::vmod::Mode::kMapped
                : mode == VENUM(native) ? om::vmod::Mode::kNative
                : mode == VENUM(dual)   ? om::vmod::Mode::kDual
                                        : om::vmod::Mode::kAuto;
  policy.threshold = static_cast<std::uint64_t>(threshold);
  policy.disk_bytes = static_cast<std::uint64_t>(disk);
  if (disk == 0 && (mode == VENUM(native) || mode == VENUM(dual))) {
    VRT_fail(ctx,
             "objmapper.storage %s: mode = %s keeps bodies in files: say disk = SIZE, or use mode "
             "= mapped or auto",
             vcl_name, mode);
    return;
  }
  if (disk > 0 && disk < static_cast<VCL_BYTES>(om::vmod::kDiskBytesMin)) {
    VRT_fail(ctx, "objmapper.storage %s: disk = %s is too little, the least is %s", vcl_name,
             format_size(policy.disk_bytes).c_str(), format_size(om::vmod::kDiskBytesMin).c_str());
    return;
  }
  if (policy.threshold < om::vmod::kFileBodyBytesMin) {
    VRT_fail(
        ctx,
        "objmapper.storage %s: threshold = %s: a file for each body of less than %s costs more "
        "than it saves; that is the least (mode = native uses it)",
        vcl_name, format_size(policy.threshold).c_str(),
        format_size(om::vmod::kFileBodyBytesMin).c_str());
    return;
  }
  if (socket == nullptr || *socket != '/') {
    VRT_fail(ctx, "objmapper.storage %s: socket must be the absolute path of objmapperd's socket",
             vcl_name);
    return;
  }
  Store* store = nullptr;
  if (const std::string& mismatch = om::abi::check(); !mismatch.empty()) {
    if (on_mismatch != VENUM(passthrough)) {
      VRT_fail(ctx,
               "objmapper.storage %s: cannot work inside this varnishd: %s (on_mismatch = "
               "passthrough would load, and leave all objects to Varnish's own storage)",
               vcl_name, mismatch.c_str());
      return;
    }
    om::vmod::notice(
        LOG_ERR, nullptr,
        std::string(vcl_name) + ": all objects go to Varnish's own storage: " + mismatch);
    om::vmod::count_mismatch(vcl_name);
  } else {
    om::vmod::StoreConfig config;
    config.name = vcl_name;
    config.owner = om::vmod::instance_name() + "/" + vcl_name;
    config.socket = socket;
    config.memory_bytes = static_cast<std::uint64_t>(memory);
    config.disk_bytes = static_cast<std::uint64_t>(disk);
    config.verify = verify == VENUM(on_adopt)  ? om::vmod::Verify::kOnAdopt
                    : verify == VENUM(on_read) ? om::vmod::Verify::kOnRead
                                               : om::vmod::Verify::kNone;
    config.adopt_within = adopt_within;
    std::string refusal;
    try {
      store = om::vmod::store_for(std::move(config), refusal);
    } catch (const std::exception& failure) {
      refusal = failure.what();
    }
    if (store == nullptr) {
      VRT_fail(ctx, "objmapper.storage %s: %s", vcl_name, refusal.c_str());
      return;
    }
    om::vmod::Settings settings;
    settings.policy = policy;
    settings.delivery = delivery == VENUM(file)     ? om::vmod::DeliverySetting::kFile
                        : delivery == VENUM(mapped) ? om::vmod::DeliverySetting::kMapped
                                                    : om::vmod::DeliverySetting::kAuto;
    om::vmod::settings::set(ctx->vcl, *store, settings);
  }
  *handle = new (std::nothrow) vmod_objmapper_storage{VMOD_OBJMAPPER_STORAGE_MAGIC, store};
  if (*handle == nullptr) VRT_fail(ctx, "objmapper.storage %s: out of memory", vcl_name);
}

VCL_VOID vmod_storage__fini(struct vmod_objmapper_storage** handle) {
  delete *handle;
  *handle = nullptr;
}

VCL_STEVEDORE vmod_storage_storage(VRT_CTX, struct vmod_objmapper_storage* handle) {
  (void)ctx;
  if (handle->store != nullptr) return handle->store->stv();
  // Any storage of -s will do; s0 is its name unless somebody gave names.
  VCL_STEVEDORE own = VRT_stevedore("s0");
  return own != nullptr ? own : VRT_stevedore("Transient");
}

VCL_VOID vmod_storage_set_default(VRT_CTX, struct vmod_objmapper_storage* handle) {
  if (handle->store == nullptr) return;
  if (ctx->method != VCL_MET_INIT) {
    VRT_fail(ctx, "objmapper: .set_default() is for vcl_init");
    return;
  }
  om::vmod::redirect::set_default(ctx->vcl, *handle->store);
}

VCL_BYTES vmod_storage_free_space(VRT_CTX, struct vmod_objmapper_storage* handle) {
  (void)ctx;
  return handle->store == nullptr ? 0 : handle->store->stv()->var_free_space(handle->store->stv());
}

VCL_BYTES vmod_storage_used_space(VRT_CTX, struct vmod_objmapper_storage* handle) {
  (void)ctx;
  return handle->store == nullptr ? 0 : handle->store->stv()->var_used_space(handle->store->stv());
}

VCL_BOOL vmod_storage_happy(VRT_CTX, struct vmod_objmapper_storage* handle) {
  (void)ctx;
  return handle->store != nullptr && handle->store->happy() ? 1 : 0;
}

}  // extern "C"
