// The codec and the rules of shared_object.h.
//
// Encoded: u32 magic, u16 version, u8 kind, u8 flags, u64 checksum of all that follows, then the
// fields, little endian; texts have a u16 count in front. Bytes left over are an error.
#include "shared_object.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/checksum.h"
#include "base/limits.h"

namespace om::vmod::shared {

namespace {

constexpr std::uint32_t kMagic = 0x48534d4f;  // "OMSH"
constexpr std::uint16_t kVersion = 1;
constexpr std::uint8_t kHasGzipBits = 1;
constexpr std::size_t kHeadBytes = 16;
constexpr char kDigestTag[] = "varnish-digest:";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_space(char c) { return c == ' ' || c == '\t'; }
bool equal_names(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}
std::string_view trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}
// token of RFC 9110, 5.6.2
bool is_token(std::string_view text) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  };
  return !text.empty() && std::all_of(text.begin(), text.end(), good);
}
// A time, or a number of seconds, that somebody can compute with.
bool is_sane(double seconds) { return std::isfinite(seconds) && std::fabs(seconds) < 1e12; }

void put_bytes(std::string& out, const void* at, std::size_t bytes) {
  out.append(static_cast<const char*>(at), bytes);
}
template <class T>
void put(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  put_bytes(out, &value, sizeof value);
}
bool put_text(std::string& out, std::string_view text) {
  if (text.size() > 0xffff) return false;
  put(out, static_cast<std::uint16_t>(text.size()));
  out.append(text);
  return true;
}

// After the first thing that is not there everything reads as nothing.
struct Reader {
  std::string_view rest;
  bool good = true;

  template <class T>
  T get() {
    T value{};
    if (rest.size() < sizeof value) {
      good = false;
      rest = {};
      return value;
    }
    std::memcpy(&value, rest.data(), sizeof value);
    rest.remove_prefix(sizeof value);
    return value;
  }
  std::string text() {
    const auto bytes = get<std::uint16_t>();
    if (bytes > rest.size()) {
      good = false;
      rest = {};
      return {};
    }
    std::string value(rest.substr(0, bytes));
    rest.remove_prefix(bytes);
    return value;
  }
};

// What would break a response apart when it is handed to Varnish.
bool is_one_line(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return c == '\r' || c == '\n' || c == '\0'; });
}
bool is_header(std::string_view line) {
  const std::size_t colon = line.find(':');
  return colon != std::string_view::npos && is_token(line.substr(0, colon)) && is_one_line(line);
}

// What both sides hold a Metadata to: nullptr, or what is wrong with it.
const char* fault(const Metadata& m) {
  if (m.kind != Kind::kResponse && m.kind != Kind::kVaryIndex) return "kind";
  if (m.status < 200 || m.status > 999) return "status";
  if (m.reason.size() > kReasonBytesMax || !is_one_line(m.reason)) return "reason";
  if (m.headers.size() > kHeadersMax || !std::all_of(m.headers.begin(), m.headers.end(), is_header))
    return "headers";
  if (m.vary.size() > kVaryFieldsMax) return "vary";
  for (const VaryField& field : m.vary) {
    if (!is_token(field.name)) return "vary";
    if (field.value && !is_one_line(*field.value)) return "vary";
  }
  if (m.kind == Kind::kVaryIndex && m.vary.empty()) return "vary";
  for (const double seconds : {m.t_origin, m.ttl, m.grace, m.keep, m.ban_time})
    if (!is_sane(seconds)) return "timers";
  return nullptr;
}

constexpr char kHexDigits[] = "0123456789abcdef";
std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) {
    text += kHexDigits[byte >> 4];
    text += kHexDigits[byte & 15];
  }
  return text;
}

// Entity tags of a list, each with its quotes, without W/.
template <class Visit>
void for_each_tag(std::string_view list, Visit visit) {
  std::size_t at = 0;
  while ((at = list.find('"', at)) != std::string_view::npos) {
    const std::size_t end = list.find('"', at + 1);
    if (end == std::string_view::npos) return;
    visit(list.substr(at, end + 1 - at));
    at = end + 1;
  }
}

}  // namespace

Result<std::string> encode(const Metadata& m) {
  if (const char* wrong = fault(m); wrong != nullptr)
    return Error{Errc::kMalformed, 0, std::string("a response that cannot be shared: ") + wrong};
  std::string fields;
  bool fits = true;
  put(fields, m.status);
  put(fields, m.t_origin), put(fields, m.ttl), put(fields, m.grace), put(fields, m.keep);
  put(fields, m.ban_time);
  if (m.gzip_bits) put_bytes(fields, m.gzip_bits->data(), m.gzip_bits->size());
  fits &= put_text(fields, m.reason);
  put(fields, static_cast<std::uint16_t>(m.vary.size()));
  for (const VaryField& field : m.vary) {
    fits &= put_text(fields, field.name);
    put(fields, static_cast<std::uint8_t>(field.value.has_value()));
    if (field.value) fits &= put_text(fields, *field.value);
  }
  put(fields, static_cast<std::uint16_t>(m.headers.size()));
  for (const std::string& line : m.headers) fits &= put_text(fields, line);
  if (!fits || kHeadBytes + fields.size() > kMetadataBytesMax)
    return Error{Errc::kMalformed, 0, "a response that cannot be shared: its headers are too long"};

  std::string out;
  out.reserve(kHeadBytes + fields.size());
  put(out, kMagic);
  put(out, kVersion);
  put(out, static_cast<std::uint8_t>(m.kind));
  put(out, m.gzip_bits ? kHasGzipBits : std::uint8_t{0});
  // The kind and the flags are under it as well.
  const std::string covered = out.substr(6) + fields;
  put(out, checksum(std::as_bytes(std::span(covered))));
  out += fields;
  return out;
}

Result<Metadata> decode(std::string_view bytes) {
  const auto corrupt = [](const char* what) {
    return Error{Errc::kCorrupt, 0, std::string("metadata of a shared object: ") + what};
  };
  Reader in{bytes};
  if (in.get<std::uint32_t>() != kMagic) return corrupt("not ours");
  if (in.get<std::uint16_t>() != kVersion) return corrupt("of another version");
  Metadata m;
  const auto kind = in.get<std::uint8_t>();
  const auto flags = in.get<std::uint8_t>();
  const auto sum = in.get<std::uint64_t>();
  if (!in.good) return corrupt("too short");
  std::string covered;
  covered.reserve(2 + in.rest.size());
  covered += static_cast<char>(kind);
  covered += static_cast<char>(flags);
  covered += in.rest;
  if (checksum(std::as_bytes(std::span(covered))) != sum) return corrupt("wrong checksum");

  if (kind > static_cast<std::uint8_t>(Kind::kVaryIndex) || (flags & ~kHasGzipBits) != 0)
    return corrupt("not understood");
  m.kind = static_cast<Kind>(kind);
  m.status = in.get<std::uint16_t>();
  m.t_origin = in.get<double>();
  m.ttl = in.get<double>();
  m.grace = in.get<double>();
  m.keep = in.get<double>();
  m.ban_time = in.get<double>();
  if ((flags & kHasGzipBits) != 0) m.gzip_bits = in.get<std::array<std::uint8_t, 32>>();
  m.reason = in.text();
  const auto fields = in.get<std::uint16_t>();
  for (std::uint16_t i = 0; i < fields && in.good; ++i) {
    VaryField& field = m.vary.emplace_back();
    field.name = in.text();
    const auto has_value = in.get<std::uint8_t>();
    if (has_value > 1) return corrupt("not understood");
    if (has_value != 0) field.value = in.text();
  }
  const auto headers = in.get<std::uint16_t>();
  for (std::uint16_t i = 0; i < headers && in.good; ++i) m.headers.push_back(in.text());
  if (!in.good || !in.rest.empty()) return corrupt("not of its own length");
  if (const char* wrong = fault(m); wrong != nullptr) return corrupt(wrong);
  return m;
}

std::optional<std::string_view> header(const Metadata& metadata, std::string_view name) {
  for (const std::string& line : metadata.headers) {
    const std::string_view text = line;
    const std::size_t colon = text.find(':');
    if (colon == name.size() && equal_names(text.substr(0, colon), name))
      return trim(text.substr(colon + 1));
  }
  return std::nullopt;
}

std::uint64_t expires_ns(const Metadata& m) {
  const double end =
      m.t_origin + std::max(m.ttl, 0.0) + std::max(m.grace, 0.0) + std::max(m.keep, 0.0);
  // Later than 200 years from 1970 is never.
  if (!(end < 6.3e9)) return 0;
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::max(end, 0.0) * 1e9));
}

std::string base_key(std::string_view prefix, std::string_view host, std::string_view url,
                     std::span<const std::uint8_t> digest) {
  std::string key(prefix.empty() ? std::string_view("http://") : prefix);
  if (key.back() != '/' && key.back() != ':') key += '/';
  key += host;
  key += url;
  key += '#';
  key += hex(digest);
  return key;
}

std::string purge_stem(std::string_view prefix, std::string_view host, std::string_view url) {
  std::string stem = base_key(prefix, host, url, {});
  stem.resize(std::min(stem.rfind('#'), kKeyBytesMax));
  return stem;
}

std::string primary_key(std::string_view base, bool accepts_gzip) {
  std::string key(base);
  if (!accepts_gzip) key += ";identity";
  return key;
}

std::string variant_key(std::string_view primary, std::span<const VaryField> vary) {
  std::string chosen;
  for (const VaryField& field : vary) {
    // Lengths in front: no two lists of fields give the same bytes.
    put(chosen, static_cast<std::uint32_t>(field.name.size()));
    chosen += field.name;
    put(chosen, field.value ? static_cast<std::uint32_t>(field.value->size()) : ~std::uint32_t{0});
    if (field.value) chosen += *field.value;
  }
  const KeyHash hash = hash_key(chosen);
  std::array<std::uint8_t, 16> bytes{};
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>(hash.high >> (56 - 8 * i));
    bytes[8 + i] = static_cast<std::uint8_t>(hash.low >> (56 - 8 * i));
  }
  std::string key(primary);
  key += ";vary=";
  key += hex(bytes);
  return key;
}

std::string digest_tag(std::span<const std::uint8_t> digest) { return kDigestTag + hex(digest); }

std::optional<std::array<std::uint8_t, 32>> digest_of_tag(std::string_view tag) {
  std::array<std::uint8_t, 32> digest{};
  if (!tag.starts_with(kDigestTag)) return std::nullopt;
  tag.remove_prefix(std::string_view(kDigestTag).size());
  if (tag.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < tag.size(); ++i) {
    const std::size_t value = std::string_view(kHexDigits).find(tag[i]);
    if (value == std::string_view::npos) return std::nullopt;
    digest[i / 2] = static_cast<std::uint8_t>(digest[i / 2] * 16U + value);
  }
  return digest;
}

std::optional<std::vector<std::string>> parse_vary(std::string_view value) {
  std::vector<std::string> names;
  while (true) {
    const std::size_t comma = value.find(',');
    const std::string_view name = trim(value.substr(0, comma));
    if (!name.empty()) {
      if (name == "*" || !is_token(name)) return std::nullopt;
      std::string& lowered = names.emplace_back(name);
      std::transform(lowered.begin(), lowered.end(), lowered.begin(), lower);
    }
    if (comma == std::string_view::npos) break;
    value.remove_prefix(comma + 1);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.size() > kVaryFieldsMax) return std::nullopt;
  return names;
}

std::vector<VaryField> select(std::span<const std::string> names, const HeaderLookup& request) {
  std::vector<VaryField> fields;
  fields.reserve(names.size());
  for (const std::string& name : names) {
    std::optional<std::string> value = request(name);
    if (value) value = std::string(trim(*value));
    fields.push_back({name, std::move(value)});
  }
  return fields;
}

std::vector<VaryField> select(std::span<const VaryField> fields, const HeaderLookup& request) {
  std::vector<std::string> names;
  names.reserve(fields.size());
  for (const VaryField& field : fields) names.push_back(field.name);
  return select(names, request);
}

bool matches(const Metadata& metadata, const HeaderLookup& request) {
  return select(metadata.vary, request) == metadata.vary;
}

bool not_modified(const Metadata& metadata, std::optional<std::string_view> if_none_match,
                  std::optional<std::string_view> if_modified_since,
                  const std::function<double(std::string_view)>& date) {
  if (metadata.status != 200) return false;
  if (if_none_match) {
    if (trim(*if_none_match) == "*") return true;
    const auto etag = header(metadata, "etag");
    if (!etag) return false;
    bool found = false;
    for_each_tag(*etag, [&](std::string_view ours) {
      for_each_tag(*if_none_match, [&](std::string_view theirs) { found |= ours == theirs; });
    });
    return found;
  }
  if (if_modified_since) {
    const auto modified = header(metadata, "last-modified");
    if (!modified) return false;
    const double ours = date(*modified);
    const double theirs = date(*if_modified_since);
    // An older one is another response: the origin may have gone back to it.
    return ours > 0 && ours == theirs;
  }
  return false;
}

}  // namespace om::vmod::shared
