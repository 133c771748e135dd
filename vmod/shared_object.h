// shared_object.h: how an HTTP response lies in the store, for every cache of the machine.
//
//   key       <prefix><host><url>#<64 hex digits of Varnish's hash digest>
//             or what set_key() said; then, where it applies,
//             ;identity         for requests that do not accept gzip
//             ;vary=<32 hex>    for one variant of a response with a Vary header
//   body      the object's
//   metadata  the object's, encoded here: status, headers, timers, Vary, ban time
//
// A response without Vary lies under its primary key. One with Vary lies under its variant key, and
// under the primary key lies an object without a body that names the Vary headers (a Vary index).
// So a reader asks once, or twice where there is Vary. The index is only a signpost: each variant
// carries the request headers it was chosen by, and a reader compares them.
//
// Identity and gzip never meet: what was fetched by a request that accepts gzip has another primary
// key than what was fetched by one that does not.
//
// No Varnish here: tests and fuzzers use it as it is. Metadata comes from other processes, so
// decode() trusts nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace om::vmod::shared {

// --- metadata ------------------------------------------------------------------------------------

inline constexpr std::size_t kHeadersMax = 512;
inline constexpr std::size_t kReasonBytesMax = 1024;
inline constexpr std::size_t kVaryFieldsMax = 32;

// A request header that the response was chosen by. No value: the request had none.
struct VaryField {
  std::string name;  // lower case
  std::optional<std::string> value;
  bool operator==(const VaryField&) const = default;
};

enum class Kind : std::uint8_t {
  kResponse = 0,
  kVaryIndex = 1,  // only `vary` (names), t_origin and ttl mean something
};

struct Metadata {
  Kind kind = Kind::kResponse;
  std::uint16_t status = 200;
  std::string reason{};
  // "Name: value", as Varnish has them, without hop-by-hop fields, Age and Content-Length.
  std::vector<std::string> headers{};
  std::vector<VaryField> vary{};
  // As in Varnish's objcore: seconds since 1970, then seconds from there.
  double t_origin = 0;
  double ttl = 0;
  double grace = 0;
  double keep = 0;
  // When the fetch from the origin began, seconds since 1970: only bans that were made later can
  // mean it (shared_bans.h).
  double ban_time = 0;
  // The body is gzip and was tested; with the bits that Varnish keeps of it (OA_GZIPBITS).
  std::optional<std::array<std::uint8_t, 32>> gzip_bits{};

  bool operator==(const Metadata&) const = default;
};

// The bytes for PutOptions::metadata. Fails when they are more than the store takes (64 KiB) or a
// limit above is broken: then the response is not shared.
Result<std::string> encode(const Metadata& metadata);
// kCorrupt: not what encode() made, or of another version. To readers that is a miss.
Result<Metadata> decode(std::string_view bytes);

// The value of the first header of that name (any case), without the space around it.
std::optional<std::string_view> header(const Metadata& metadata, std::string_view name);

// Seconds of freshness that are left at `now`; not positive: none.
inline double remaining(const Metadata& metadata, double now) {
  return metadata.t_origin + metadata.ttl - now;
}
// For PutOptions::expires_ns: when nobody can use it any more, be it to revalidate it.
std::uint64_t expires_ns(const Metadata& metadata);

// --- keys ----------------------------------------------------------------------------------------

// The primary key of requests that accept gzip. A prefix that ends in neither '/' nor ':' gets a
// '/'; an empty one is "http://".
std::string base_key(std::string_view prefix, std::string_view host, std::string_view url,
                     std::span<const std::uint8_t> digest);
// `base` is base_key(), or what set_key() said.
std::string primary_key(std::string_view base, bool accepts_gzip);
std::string variant_key(std::string_view primary, std::span<const VaryField> vary);
// What is stored for a base_key(): the base itself and everything that begins with base + ';'.
inline constexpr char kVariantSeparator = ';';
// What purges name: the base_key() of all digests, up to '#'. Where no key has room for it, as much
// as has: then nothing is shared by it, and the digest's tag alone says what is removed.
std::string purge_stem(std::string_view prefix, std::string_view host, std::string_view url);

// A tag that every object of a digest has, whatever its key.
std::string digest_tag(std::span<const std::uint8_t> digest);
// nullopt: not such a tag.
std::optional<std::array<std::uint8_t, 32>> digest_of_tag(std::string_view tag);

// --- Vary ----------------------------------------------------------------------------------------

// The value of a request header, several fields of one name joined by ", "; nullopt: there is none.
using HeaderLookup = std::function<std::optional<std::string>(std::string_view name)>;

// The names of a Vary header, lower case, sorted, each once. nullopt: "*", not a list of names, or
// too many: such a response is not shared.
std::optional<std::vector<std::string>> parse_vary(std::string_view value);
// What the request says to each of them.
std::vector<VaryField> select(std::span<const std::string> names, const HeaderLookup& request);
std::vector<VaryField> select(std::span<const VaryField> fields, const HeaderLookup& request);
// Whether the request would have chosen this response.
bool matches(const Metadata& metadata, const HeaderLookup& request);

// --- validators ----------------------------------------------------------------------------------

// Whether a conditional request (If-None-Match, else If-Modified-Since) is answered by 304 with
// this response as the current one (RFC 9110, 13.1). It comes from a cache, which has the date from
// a response: so dates are compared as validators, for being the same. `date` reads an HTTP date;
// 0: it is none.
bool not_modified(const Metadata& metadata, std::optional<std::string_view> if_none_match,
                  std::optional<std::string_view> if_modified_since,
                  const std::function<double(std::string_view)>& date);

}  // namespace om::vmod::shared
