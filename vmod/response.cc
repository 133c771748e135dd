#include "response.h"

#include <strings.h>

#include <algorithm>
#include <string_view>

#include "base/limits.h"
#include "director.h"

namespace om::vmod::tee {

namespace {

std::string_view text_of(const txt& t) {
  return t.b == nullptr ? std::string_view{}
                        : std::string_view(t.b, static_cast<std::size_t>(t.e - t.b));
}

bool equal_names(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// Fields that are about the connection or the message, or about us.
bool goes_along(std::string_view name) {
  for (const std::string_view never :
       {"age", "content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "te",
        "upgrade", "proxy-connection", "proxy-authenticate", "x-objmapper-object",
        "x-objmapper-length"})
    if (equal_names(name, never)) return false;
  return true;
}

std::string_view value_of(std::string_view line) {
  std::string_view value = line.substr(std::min(line.find(':'), line.size() - 1) + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  return value;
}

}  // namespace

Timers timers_of(const struct objcore* oc) {
  return {oc->t_origin, static_cast<double>(oc->ttl), static_cast<double>(oc->grace),
          static_cast<double>(oc->keep)};
}

std::optional<shared::Metadata> describe_response(const struct busyobj* bo, const Timers& timers,
                                                  double began) {
  shared::Metadata metadata;
  const struct http* response = bo->beresp;
  metadata.status = response->status;
  metadata.reason = text_of(response->hd[HTTP_HDR_REASON]);
  for (unsigned i = HTTP_HDR_FIRST; i < response->nhd; ++i) {
    const std::string_view line = text_of(response->hd[i]);
    const std::string_view name = line.substr(0, line.find(':'));
    if (line.empty() || name.size() == line.size() || (response->hdf[i] & HDF_FILTER) != 0 ||
        !goes_along(name))
      continue;
    metadata.headers.emplace_back(line);
    if (!equal_names(name, "vary")) continue;
    const auto names = shared::parse_vary(value_of(line));
    if (!names) return std::nullopt;
    const auto fields = shared::select(*names, director::headers_of(bo->bereq));
    metadata.vary.insert(metadata.vary.end(), fields.begin(), fields.end());
  }
  metadata.t_origin = timers.t_origin;
  metadata.ttl = timers.ttl;
  metadata.grace = timers.grace;
  metadata.keep = timers.keep;
  metadata.ban_time = began;
  return metadata;
}

std::optional<std::vector<std::string>> tags_of(const shared::Metadata& metadata) {
  std::vector<std::string> tags;
  for (const std::string_view line : metadata.headers) {
    const std::string_view name = line.substr(0, line.find(':'));
    if (!equal_names(name, "xkey") && !equal_names(name, "cache-tag") &&
        !equal_names(name, "surrogate-key"))
      continue;
    std::string_view rest = value_of(line);
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find_first_of(", \t"), rest.size());
      if (end > kTagBytesMax) return std::nullopt;
      if (end > 0) tags.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  std::ranges::sort(tags);
  tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
  if (tags.size() + 1 > kTagsMax) return std::nullopt;
  return tags;
}

}  // namespace om::vmod::tee
