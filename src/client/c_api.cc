// The C interface: opaque handles around the C++ one. No exception crosses it.
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <new>
#include <string>

#include "base/ban_text.h"
#include "objmapper/client.h"
#include "objmapper/objmapper.h"

struct om_client {
  om::Client client;
};
struct om_lease {
  om::Lease lease;
  std::vector<om_slice> slices;
};
struct om_writer {
  om::Writer writer;
};
struct om_follower {
  om::Follower follower;
};

namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): as errno is
thread_local std::string last_error;

int errno_of(const om::Error& error) {
  switch (error.code) {
    case om::Errc::kNotFound: return ENOENT;
    case om::Errc::kExists: return EEXIST;
    case om::Errc::kBusy: return EBUSY;
    case om::Errc::kNoSpace: return ENOSPC;
    case om::Errc::kQuota: return EDQUOT;
    case om::Errc::kMalformed: return EINVAL;
    case om::Errc::kDenied: return EACCES;
    case om::Errc::kUnavailable: return ENOTCONN;
    case om::Errc::kTimeout: return ETIMEDOUT;
    case om::Errc::kCorrupt: return EBADMSG;
    case om::Errc::kUnsupported: return EPROTONOSUPPORT;
    case om::Errc::kOk:
    case om::Errc::kSystem: break;
  }
  return error.sys_errno > 0 ? error.sys_errno : EIO;
}

int failed(const om::Error& error) {
  last_error = om::describe(error);
  return -errno_of(error);
}

int absent(const char* key) { return failed({om::Errc::kNotFound, 0, key}); }

// `call` with exceptions as errors. Their texts are short enough for a string to have room for them
// without memory.
template <class Call>
auto guarded(Call call) noexcept -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return -ENOMEM;
  } catch (...) {
    last_error = "internal error";
    return -EIO;
  }
}

int invalid(const char* what) noexcept {
  return guarded([what] { return failed({om::Errc::kMalformed, 0, what}); });
}

om::PutOptions to_options(const char* key, const om_put_options* options) {
  om::PutOptions put;
  put.key = key;
  if (options == nullptr) return put;
  if (options->length != 0) put.length = options->length;
  if (options->ttl_ms != 0) {
    using std::chrono::milliseconds;
    constexpr auto kMost = std::chrono::floor<milliseconds>(std::chrono::nanoseconds::max());
    put.expires_ns = om::expires_in(
        options->ttl_ms < std::uint64_t{kMost.count()} ? milliseconds(options->ttl_ms) : kMost);
  }
  if (options->metadata != nullptr)
    put.metadata.assign(static_cast<const char*>(options->metadata), options->metadata_length);
  for (const char* const* tag = options->tags; tag != nullptr && *tag != nullptr; ++tag)
    put.tags.emplace_back(*tag);
  put.ephemeral = options->ephemeral != 0;
  return put;
}

om_info to_c(const om::ObjectInfo& info) {
  return {info.object_id,  info.length,         info.created_ns,
          info.expires_ns, int{info.ephemeral}, int{info.on_disk}};
}

om_lease* to_c(om::Lease lease) {
  auto made = std::make_unique<om_lease>();
  made->lease = std::move(lease);
  for (const om::Slice& slice : made->lease.slices())
    made->slices.push_back({slice.fd, slice.offset, slice.length});
  return made.release();
}

std::span<const std::byte> bytes_of(const void* bytes, size_t length) {
  return {static_cast<const std::byte*>(bytes), length};
}

}  // namespace

extern "C" {

const char* om_error(void) { return last_error.c_str(); }

int om_client_open(const char* socket, unsigned timeout_ms, const char* name, om_client** client) {
  if (client == nullptr) return invalid("om_client_open: NULL");
  *client = nullptr;
  return guarded([&] {
    om::ConnectOptions options;
    if (socket != nullptr) options.socket = socket;
    if (timeout_ms != 0) options.timeout = std::chrono::milliseconds(timeout_ms);
    if (name != nullptr) options.name = name;
    auto connected = om::Client::connect(options);
    if (!connected) return failed(connected.error());
    *client = new om_client{*std::move(connected)};
    return 0;
  });
}

void om_client_close(om_client* client) { delete client; }

int om_client_closed(const om_client* client) { return client->client.closed() ? 1 : 0; }

int om_client_fd(const om_client* client) { return client->client.native_handle(); }

int om_get(om_client* client, const char* key, om_lease** lease) {
  if (lease == nullptr) return invalid("om_get: NULL");
  *lease = nullptr;
  if (client == nullptr || key == nullptr) return invalid("om_get: NULL");
  return guarded([&] {
    auto got = client->client.get(key);
    if (!got) return failed(got.error());
    if (!got->has_value()) return absent(key);
    *lease = to_c(**std::move(got));
    return 0;
  });
}

void om_lease_close(om_lease* lease) { delete lease; }

uint64_t om_lease_length(const om_lease* lease) { return lease->lease.size(); }

void om_lease_info(const om_lease* lease, om_info* info) { *info = to_c(lease->lease.info()); }

const void* om_lease_metadata(const om_lease* lease, size_t* length) {
  const std::string& metadata = lease->lease.info().metadata;
  if (length != nullptr) *length = metadata.size();
  return metadata.data();
}

const om_slice* om_lease_slices(const om_lease* lease, size_t* count) {
  *count = lease->slices.size();
  return lease->slices.data();
}

int64_t om_lease_read(const om_lease* lease, uint64_t offset, void* into, size_t length) {
  return guarded([&]() -> int64_t {
    const auto done = lease->lease.read(offset, {static_cast<std::byte*>(into), length});
    return done ? static_cast<int64_t>(*done) : failed(done.error());
  });
}

int om_stat(om_client* client, const char* key, om_info* info) {
  if (client == nullptr || key == nullptr || info == nullptr) return invalid("om_stat: NULL");
  return guarded([&] {
    const auto found = client->client.stat(key);
    if (!found) return failed(found.error());
    if (!found->has_value()) return absent(key);
    *info = to_c(**found);
    return 0;
  });
}

int om_put(om_client* client, const char* key, const om_put_options* options, const void* body,
           size_t length) {
  if (client == nullptr || key == nullptr) return invalid("om_put: NULL");
  return guarded([&] {
    const auto done = client->client.put(to_options(key, options), bytes_of(body, length));
    return done ? 0 : failed(done.error());
  });
}

int om_reserve(om_client* client, const char* key, const om_put_options* options,
               om_writer** writer) {
  if (writer == nullptr) return invalid("om_reserve: NULL");
  *writer = nullptr;
  if (client == nullptr || key == nullptr) return invalid("om_reserve: NULL");
  return guarded([&] {
    auto reserved = client->client.reserve(to_options(key, options));
    if (!reserved) return failed(reserved.error());
    *writer = new om_writer{*std::move(reserved)};
    return 0;
  });
}

int om_reserve_or_get(om_client* client, const char* key, const om_put_options* options,
                      unsigned wait_ms, om_lease** lease, om_writer** writer) {
  if (lease == nullptr || writer == nullptr) return invalid("om_reserve_or_get: NULL");
  *lease = nullptr;
  *writer = nullptr;
  if (client == nullptr || key == nullptr) return invalid("om_reserve_or_get: NULL");
  return guarded([&] {
    auto reserved =
        client->client.reserve_or_get(to_options(key, options), std::chrono::milliseconds(wait_ms));
    if (!reserved) return failed(reserved.error());
    if (auto* hit = std::get_if<om::Lease>(&*reserved))
      *lease = to_c(std::move(*hit));
    else
      *writer = new om_writer{std::get<om::Writer>(*std::move(reserved))};
    return 0;
  });
}

int om_reserve_or_follow(om_client* client, const char* key, const om_put_options* options,
                         om_lease** lease, om_writer** writer, om_follower** follower) {
  if (lease == nullptr || writer == nullptr || follower == nullptr)
    return invalid("om_reserve_or_follow: NULL");
  *lease = nullptr;
  *writer = nullptr;
  *follower = nullptr;
  if (client == nullptr || key == nullptr) return invalid("om_reserve_or_follow: NULL");
  return guarded([&] {
    auto reserved = client->client.reserve_or_follow(to_options(key, options));
    if (!reserved) return failed(reserved.error());
    if (auto* hit = std::get_if<om::Lease>(&*reserved))
      *lease = to_c(std::move(*hit));
    else if (auto* ours = std::get_if<om::Writer>(&*reserved))
      *writer = new om_writer{std::move(*ours)};
    else
      *follower = new om_follower{std::get<om::Follower>(*std::move(reserved))};
    return 0;
  });
}

int64_t om_follower_read(om_follower* follower, uint64_t offset, void* into, size_t length,
                         unsigned wait_ms) {
  return guarded([&]() -> int64_t {
    const auto done = follower->follower.read(offset, {static_cast<std::byte*>(into), length},
                                              std::chrono::milliseconds(wait_ms));
    return done ? static_cast<int64_t>(*done) : failed(done.error());
  });
}

uint64_t om_follower_available(const om_follower* follower, uint64_t* length, int* committed) {
  if (length != nullptr) *length = follower->follower.info().length;
  if (committed != nullptr) *committed = follower->follower.committed() ? 1 : 0;
  return follower->follower.available();
}

int om_follower_lease(om_follower* follower, unsigned wait_ms, om_lease** lease) {
  const std::unique_ptr<om_follower> ours(follower);
  if (lease == nullptr) return invalid("om_follower_lease: NULL");
  *lease = nullptr;
  return guarded([&] {
    auto got = std::move(ours->follower).lease(std::chrono::milliseconds(wait_ms));
    if (!got) return failed(got.error());
    *lease = to_c(*std::move(got));
    return 0;
  });
}

void om_follower_close(om_follower* follower) { delete follower; }

int om_writer_announce(om_writer* writer) {
  return guarded([&] {
    const auto done = writer->writer.announce();
    return done ? 0 : failed(done.error());
  });
}

int om_writer_write(om_writer* writer, const void* bytes, size_t length) {
  return guarded([&] {
    const auto done = writer->writer.write(bytes_of(bytes, length));
    return done ? 0 : failed(done.error());
  });
}

int om_writer_commit(om_writer* writer, uint64_t* object_id) {
  const std::unique_ptr<om_writer> ours(writer);
  return guarded([&] {
    const auto done = std::move(ours->writer).commit();
    if (!done) return failed(done.error());
    if (object_id != nullptr) *object_id = done->object_id;
    return 0;
  });
}

void om_writer_abort(om_writer* writer) { delete writer; }

int om_delete(om_client* client, const char* key) {
  if (client == nullptr || key == nullptr) return invalid("om_delete: NULL");
  return guarded([&] {
    const auto removed = client->client.remove(key);
    if (!removed) return failed(removed.error());
    return *removed ? 0 : absent(key);
  });
}

int om_delete_prefix(om_client* client, const char* prefix, uint64_t* removed) {
  if (client == nullptr || prefix == nullptr) return invalid("om_delete_prefix: NULL");
  return guarded([&] {
    const auto count = client->client.remove_prefix(prefix);
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

int om_delete_tag(om_client* client, const char* tag, uint64_t* removed) {
  if (client == nullptr || tag == nullptr) return invalid("om_delete_tag: NULL");
  return guarded([&] {
    const auto count = client->client.remove_tag(tag);
    if (!count) return failed(count.error());
    if (removed != nullptr) *removed = *count;
    return 0;
  });
}

namespace {

int remove_everywhere(om_client* client, om::RemovalKind kind, std::string what,
                      uint32_t* unapplied) {
  om::RemovalRequest request;
  request.kind = kind;
  request.what = std::move(what);
  const auto done = client->client.remove_everywhere(request);
  if (!done) return failed(done.error());
  if (unapplied != nullptr) *unapplied = done->unapplied;
  return 0;
}

}  // namespace

int om_purge(om_client* client, const char* key, uint32_t* unapplied) {
  if (client == nullptr || key == nullptr) return invalid("om_purge: NULL");
  return guarded(
      [&] { return remove_everywhere(client, om::RemovalKind::kPurge, key, unapplied); });
}

int om_purge_tag(om_client* client, const char* tag, int soft, uint32_t* unapplied) {
  if (client == nullptr || tag == nullptr) return invalid("om_purge_tag: NULL");
  const auto kind = soft != 0 ? om::RemovalKind::kTagSoft : om::RemovalKind::kTag;
  return guarded([&] { return remove_everywhere(client, kind, tag, unapplied); });
}

int om_ban(om_client* client, const char* expression, uint32_t* unapplied) {
  if (client == nullptr || expression == nullptr) return invalid("om_ban: NULL");
  return guarded([&] {
    const auto tests = om::parse_ban(expression, om::BanQuotes::kCanonical);
    if (!tests) return failed(tests.error());
    return remove_everywhere(client, om::RemovalKind::kBan, om::canonical_ban(*tests), unapplied);
  });
}

int om_list(om_client* client, const char* prefix,
            int (*each)(void* context, const char* key, uint64_t length), void* context) {
  if (client == nullptr || each == nullptr) return invalid("om_list: NULL");
  return guarded([&] {
    om::ListOptions options;
    if (prefix != nullptr) options.prefix = prefix;
    while (true) {
      auto page = client->client.list(options);
      if (!page) return failed(page.error());
      for (const om::ListEntry& entry : page->entries)
        if (const int stop = each(context, entry.key.c_str(), entry.length); stop != 0) return stop;
      if (!page->more) return 0;
      options.after = page->entries.back().key;
    }
  });
}

}  // extern "C"
