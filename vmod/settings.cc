#include "settings.h"

#include <mutex>
#include <shared_mutex>
#include <vector>

namespace om::vmod::settings {

namespace {

struct Entry {
  const struct vcl* vcl;  // nullptr: said last by any
  const Store* store;
  Settings settings;
};
// Never destroyed: workers look while the process ends.
auto& entries = *new std::vector<Entry>;
auto& entries_lock = *new std::shared_mutex;

void put(const struct vcl* vcl, const Store& store, const Settings& settings) {
  std::erase_if(entries, [&](const Entry& e) { return e.vcl == vcl && e.store == &store; });
  entries.push_back({vcl, &store, settings});
}

}  // namespace

void set(const struct vcl* vcl, const Store& store, const Settings& settings) {
  const std::unique_lock lock(entries_lock);
  put(vcl, store, settings);
  put(nullptr, store, settings);
}

Settings of(const struct vcl* vcl, const Store& store) {
  const std::shared_lock lock(entries_lock);
  Settings found;
  for (const Entry& e : entries) {
    if (e.store != &store) continue;
    if (e.vcl == vcl) return e.settings;
    if (e.vcl == nullptr) found = e.settings;
  }
  return found;
}

void forget(const struct vcl* vcl) {
  const std::unique_lock lock(entries_lock);
  std::erase_if(entries, [&](const Entry& e) { return e.vcl == vcl; });
}

}  // namespace om::vmod::settings
