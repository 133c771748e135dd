// auto.cc: a store for VCLs that know nothing of it; for bench/upstream-vtc, never installed.
//
// A VCL that is linked to this library (varnishd's parameter cc_command can do that) brings it into
// varnishd's child, where the constructor makes a store of what the environment says and the
// default of every VCL. In the processes that compile and test-load a VCL nothing happens.
#include <cstdlib>
#include <string>

#include "base/units.h"
#include "redirect.h"
#include "storage.h"

namespace {

__attribute__((constructor)) void make_default() {
  static bool done = false;
  const char* socket = std::getenv("OBJMAPPER_AUTO_SOCKET");
  if (done || socket == nullptr || !om::abi::check().empty()) return;
  if (*om::abi::varnish.cli_thread == 0 ||
      pthread_equal(pthread_self(), *om::abi::varnish.cli_thread) == 0)
    return;
  done = true;
  const char* memory = std::getenv("OBJMAPPER_AUTO_MEMORY");
  const auto bytes = om::parse_size(memory == nullptr ? "64M" : memory);
  om::vmod::StoreConfig config;
  config.name = "auto";
  config.owner = om::vmod::instance_name() + "/auto";
  config.socket = socket;
  config.memory_bytes = bytes ? *bytes : 0;
  std::string refusal;
  om::vmod::Store* store = om::vmod::store_for(std::move(config), refusal);
  if (store == nullptr)
    om::vmod::notice(3, nullptr, "auto: " + refusal);
  else
    om::vmod::redirect::set_default_for_all(*store);
}

}  // namespace
