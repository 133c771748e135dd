#include "abi/abi.h"

#include <dlfcn.h>

namespace om::abi {

Varnish varnish;

namespace {

constexpr const char kVersion[] = "7.1.1";

std::string find_symbols() {
  struct Entry {
    const char* name;
    void* place;  // of a pointer
  };
  const Entry entries[] = {
#define OM_ABI_ENTRY(name, type) {#name, static_cast<void*>(&varnish.name)},
      OM_ABI_SYMBOLS(OM_ABI_ENTRY)
#undef OM_ABI_ENTRY
  };
  for (const Entry& entry : entries) {
    void* const address = dlsym(RTLD_DEFAULT, entry.name);
    std::memcpy(entry.place, &address, sizeof address);
    if (address == nullptr) return std::string("this varnishd does not export ") + entry.name;
  }
  return "";
}

// The storages that varnishd was started with are the structs at hand: do they look as described?
std::string check_stevedores() {
  struct stevedore* one = nullptr;
  unsigned seen = 0;
  bool transient_seen = false;
  while (varnish.STV__iter(&one) != 0) {
    if (one->magic != OM_STEVEDORE_MAGIC) return "struct stevedore has another magic number";
    // What another build of ours left there to be found.
    if (one->ident != nullptr && std::strncmp(one->ident, "objmapper", 9) == 0) continue;
    if (one->allocobj == nullptr || one->methods == nullptr || one->ident == nullptr ||
        one->methods->objfree == nullptr || one->methods->objiterator == nullptr ||
        one->methods->objgetattr == nullptr || one->methods->objsetattr == nullptr)
      return "struct stevedore has another layout";
    transient_seen = transient_seen || one == *varnish.stv_transient;
    if (++seen > 1000) return "the list of storages has no end";
  }
  if (!transient_seen) return "there is no Transient storage where we expect it";
  return "";
}

std::string look() {
  const char* version = VCS_String("V");
  const std::string running = version == nullptr ? "" : version;
  if (running.find(kVersion) == std::string::npos)
    return "this is Varnish \"" + running + "\", and this build knows only " + kVersion;
  if (std::string missing = find_symbols(); !missing.empty()) return missing;
  if (*varnish.cache_param == nullptr) return "cache_param is not set";
  return check_stevedores();
}

}  // namespace

const std::string& check() {
  static const std::string answer = look();
  return answer;
}

}  // namespace om::abi
