// The VCL of a focused caching proxy: what a careful operator would write, in one piece of text.
//
// It is made for people to read (objm proxy --dry-run prints it, docs/vcl/ shows variations), so
// its comments are part of it. Everything that varies stands in VclInput; nothing here looks at the
// machine.
#pragma once

#include <cstdint>
#include <string>

#include "cli/proxy/origin.h"

namespace om::cli::proxy {

struct VclInput {
  Origin origin;
  std::string origin_address;  // numeric, from reach(); unused for a Unix socket
  std::string host_header;     // what the origin reads as Host; empty: what the client sent
  std::string probe;           // URL path; empty: no health probe
  std::string vmod_path;
  std::string user_vcl_path;  // --vcl; empty: none
  std::string objmapper_socket;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  bool x_cache = true;
};

// The name of the private listener over which the proxy asks whether varnishd is ready.
inline constexpr char kControlName[] = "objm_control";

std::string make_vcl(const VclInput& input);

}  // namespace om::cli::proxy
