// om::Client: each call of the interface as messages.
#include "objmapper/client.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "client/state.h"
#include "posix/unix_socket.h"

namespace om {

namespace client {

ObjectInfo to_info(wire::ObjectInfo info) {
  return {info.object_id,      info.length,
          info.total_bytes,    info.offset,
          info.created_ns,     info.expires_ns,
          info.ephemeral != 0, info.tier != 0,
          info.revision,       std::move(info.metadata),
          std::move(info.tags)};
}

Result<void> check_notes(const std::string& metadata, const std::vector<std::string>& tags) {
  if (metadata.size() > kMetadataBytesMax)
    return Error{Errc::kMalformed, 0, "more metadata than 64 KiB"};
  if (tags.size() > kTagsMax)
    return Error{Errc::kMalformed, 0, "more than " + std::to_string(kTagsMax) + " tags"};
  for (const std::string& tag : tags)
    if (tag.empty() || tag.size() > kTagBytesMax)
      return Error{Errc::kMalformed, 0,
                   "a tag has 1 to " + std::to_string(kTagBytesMax) + " bytes"};
  return {};
}

namespace {

Fd to_fd(UniqueFd fd) { return Fd::adopt(fd.release()); }

Error item_error(std::uint32_t status, const std::string& key) {
  const auto code = static_cast<Errc>(status);
  if (code == Errc::kQuota)
    return {code, 0, "too many leases are held: let go of some before asking for " + key};
  return {code, 0, "get " + key};
}

Result<void> check_key(const std::string& key, const char* what) {
  if (key.empty()) return Error{Errc::kMalformed, 0, std::string("an empty ") + what};
  if (key.size() > kKeyBytesMax)
    return Error{Errc::kMalformed, 0,
                 std::string("a ") + what + " of " + std::to_string(key.size()) +
                     " bytes: " + std::to_string(kKeyBytesMax) + " are the most"};
  if (key.find('\0') != std::string::npos)
    return Error{Errc::kMalformed, 0, std::string("a ") + what + " with a NUL byte in it"};
  return {};
}

Result<wire::Reserve> to_reserve(const PutOptions& options) {
  OM_TRY(check_key(options.key, "key"));
  OM_TRY(check_notes(options.metadata, options.tags));
  wire::Reserve request;
  request.key = options.key;
  request.length = options.length.value_or(wire::kUnknownLength);
  if (options.ephemeral) request.flags |= wire::kReserveEphemeral;
  if (options.direct) request.flags |= wire::kReserveDirect;
  if (options.disk) request.flags |= wire::kReserveDisk;
  request.expires_ns = options.expires_ns;
  request.metadata = options.metadata;
  request.tags = options.tags;
  request.stale_object_id = options.stale_object_id;
  request.stale_revision = options.stale_revision;
  return request;
}

// A wire::Get to be sent, without a copy of its keys.
struct KeysOfGet {
  static constexpr wire::Type kType = wire::Type::kGet;
  std::span<const std::string* const> keys;
  template <class A>
  void fields(A& a) {
    a(static_cast<std::uint32_t>(keys.size()));
    for (const std::string* const key : keys) a(*key, kKeyBytesMax);
  }
};

// The daemon has too many descriptors under way to us, or to all, and we are to ask again. False:
// the time is up.
bool wait_a_little(Deadline deadline) {
  if (std::chrono::steady_clock::now() >= deadline) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return true;
}

// How many of `keys` from `from` on go into one packet.
std::size_t batch_size(const std::vector<const std::string*>& keys, std::size_t from,
                       std::size_t keys_max) {
  std::size_t bytes = wire::Header::kBytes + sizeof(std::uint32_t);
  std::size_t count = 0;
  while (from + count < keys.size() && count < keys_max) {
    bytes += sizeof(std::uint32_t) + keys[from + count]->size();
    if (bytes > kPacketBytesMax) break;
    ++count;
  }
  return std::max<std::size_t>(count, 1);
}

// `whole`: for all of it, instead of the connection's limit for each packet.
Result<std::vector<std::optional<Lease>>> get_many(Connection& connection,
                                                   const std::vector<std::string>& keys,
                                                   std::optional<Deadline> whole) {
  std::vector<std::optional<Lease>> answers(keys.size());
  std::vector<const std::string*> open;  // keys without an answer yet
  std::vector<std::size_t> places;       // where it goes
  for (const std::string& key : keys) OM_TRY(check_key(key, "key"));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    answers[i] = connection.get_by_board(keys[i]);
    if (answers[i]) continue;
    open.push_back(&keys[i]);
    places.push_back(i);
  }
  auto progress = std::chrono::steady_clock::now();
  // Answers that did not fit their packet come as "busy": these keys go to the end of the queue.
  for (std::size_t at = 0; at < open.size();) {
    const std::size_t count = batch_size(open, at, connection.keys_per_get_max());
    const KeysOfGet request{std::span(open).subspan(at, count)};
    Call<wire::GetReply> waiting;
    OM_TRY(connection.call(request, waiting, whole.value_or(deadline_in(connection.timeout()))));
    if (waiting.reply.items.size() != count)
      return Error{Errc::kMalformed, 0, "the daemon answered for another number of keys"};
    // Most answers lie in the same few segments: each is looked up once.
    for (const wire::GetItem& item : waiting.reply.items)
      for (const wire::Extent& extent : item.extents)
        connection.know(extent.segment, waiting.segments);
    // First all that is ours, so that an error on the way gives everything back.
    std::optional<Error> failure;
    std::size_t answered = 0;
    for (std::size_t i = 0; i < count; ++i) {
      wire::GetItem& item = waiting.reply.items[i];
      const auto status = static_cast<Errc>(item.status);
      if (status == Errc::kOk) {
        auto lease = connection.make_lease(std::move(item), waiting.segments, whole);
        if (lease)
          answers[places[at + i]] = *std::move(lease);
        else if (!failure)
          failure = std::move(lease).error();
        ++answered;
      } else if (status == Errc::kNotFound) {
        ++answered;
      } else if (status == Errc::kBusy) {
        open.push_back(open[at + i]);
        places.push_back(places[at + i]);
      } else if (!failure) {
        failure = item_error(item.status, *open[at + i]);
      }
    }
    if (failure) return *std::move(failure);
    if (answered > 0)
      progress = std::chrono::steady_clock::now();
    else if (!wait_a_little(whole.value_or(progress + connection.timeout())))
      return item_error(static_cast<std::uint32_t>(Errc::kBusy), *open[at]);
    at += count;
  }
  return answers;
}

}  // namespace
}  // namespace client

using client::Call;

Client::Client(std::shared_ptr<client::Connection> connection)
    : connection_(std::move(connection)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&& other) noexcept {
  std::swap(connection_, other.connection_);
  return *this;
}
Client::~Client() {
  if (connection_ == nullptr) return;
  connection_->end_posts();
  connection_->end_subscription();
}

Result<Client> Client::connect(const ConnectOptions& options) {
  // 0 would be no limit.
  UniqueFd socket = OM_TRY(
      connect_seqpacket(options.socket, std::max(options.timeout, std::chrono::milliseconds(1))));
  return Client(OM_TRY(client::Connection::start(std::move(socket), options)));
}

Result<Client> Client::adopt(Fd socket, const ConnectOptions& options) {
  return Client(OM_TRY(client::Connection::start(UniqueFd::adopt(socket.release()), options)));
}

const DaemonInfo& Client::daemon() const { return connection_->daemon(); }
int Client::native_handle() const { return connection_->socket(); }
bool Client::closed() const { return connection_->closed(); }
void Client::close() { connection_->close(); }

// --- reading

Result<std::optional<Lease>> Client::get(const std::string& key) {
  return get(key, connection_->timeout());
}

Result<std::optional<Lease>> Client::get(const std::string& key, std::chrono::milliseconds within) {
  OM_TRY(client::check_key(key, "key"));
  if (auto lease = connection_->get_by_board(key)) return std::optional<Lease>(*std::move(lease));
  const auto deadline = client::deadline_in(within);
  while (true) {
    Call<wire::GetReply> waiting;
    const std::string* const keys[] = {&key};
    OM_TRY(connection_->call(client::KeysOfGet{keys}, waiting, deadline));
    if (waiting.reply.items.size() != 1)
      return Error{Errc::kMalformed, 0, "the daemon answered for another number of keys"};
    wire::GetItem& item = waiting.reply.items.front();
    switch (static_cast<Errc>(item.status)) {
      case Errc::kOk:
        return std::optional<Lease>(
            OM_TRY(connection_->make_lease(std::move(item), waiting.segments, deadline)));
      case Errc::kNotFound: return std::optional<Lease>();
      case Errc::kBusy:
        if (client::wait_a_little(deadline)) continue;
        [[fallthrough]];
      default: return client::item_error(item.status, key);
    }
  }
}

Result<std::vector<std::optional<Lease>>> Client::get_many(const std::vector<std::string>& keys) {
  return client::get_many(*connection_, keys, std::nullopt);
}

Result<std::vector<std::optional<Lease>>> Client::get_many(const std::vector<std::string>& keys,
                                                           std::chrono::milliseconds within) {
  return client::get_many(*connection_, keys, client::deadline_in(within));
}

Result<std::optional<ObjectInfo>> Client::stat(const std::string& key) {
  return stat(key, connection_->timeout());
}

Result<std::optional<ObjectInfo>> Client::stat(const std::string& key,
                                               std::chrono::milliseconds within) {
  OM_TRY(client::check_key(key, "key"));
  Call<wire::StatReply> waiting;
  auto answer = connection_->call(wire::Stat{key}, waiting, client::deadline_in(within));
  if (!answer) {
    if (answer.error().code == Errc::kNotFound) return std::optional<ObjectInfo>();
    return std::move(answer).error();
  }
  return std::optional<ObjectInfo>(client::to_info(std::move(waiting.reply.info)));
}

Result<ListPage> Client::list(const ListOptions& options) {
  Call<wire::ListReply> waiting;
  OM_TRY(connection_->call(wire::List{options.prefix, options.after, options.limit,
                                      options.regions ? wire::kListRegions : 0},
                           waiting));
  ListPage page;
  page.more = waiting.reply.more != 0;
  page.entries.reserve(waiting.reply.entries.size());
  for (wire::ListEntry& entry : waiting.reply.entries)
    page.entries.push_back({std::move(entry.key), entry.length, entry.created_ns, entry.expires_ns,
                            entry.tier != 0, std::move(entry.url)});
  if (page.more && page.entries.empty())
    return Error{Errc::kMalformed, 0, "the daemon sent an empty page and says that more follow"};
  return page;
}

// --- writing

namespace {

using Reserved = std::variant<Lease, Writer, Follower>;

// Sends the reservation, again while descriptors are missing that it needs. `claim`: that it ends.
Result<Reserved> reserve_through(client::Connection& connection, const PutOptions& options,
                                 wire::Reserve request,
                                 std::optional<std::chrono::milliseconds> within = {},
                                 client::ClaimState* claim = nullptr) {
  constexpr int kAttempts = 3;
  if ((request.flags & wire::kReserveOrGet) != 0)
    if (auto lease =
            connection.get_by_board(request.key, request.stale_object_id, request.stale_revision))
      return Reserved(*std::move(lease));
  const auto deadline = client::deadline_in(within.value_or(connection.timeout()),
                                            std::chrono::milliseconds(request.wait_ms));
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Call<wire::ReserveReply> waiting;
    OM_TRY(connection.begin(request, waiting, deadline));
    // From here on the daemon ends it, whatever it answers and whenever.
    if (claim != nullptr) claim->is_over = true;
    request.flags &= ~wire::kReserveClaimed;
    OM_TRY(connection.await(waiting, deadline));
    wire::ReserveReply& reply = waiting.reply;
    if (reply.outcome == static_cast<std::uint8_t>(wire::ReserveOutcome::kHit))
      return Reserved(OM_TRY(connection.make_lease(std::move(reply.hit), waiting.segments)));
    if (reply.outcome == static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing))
      return Reserved(connection.make_follower(std::move(reply.hit)));
    if (OM_TRY(connection.reservation_is_complete(reply.put_id, reply.extents, waiting.segments)))
      return Reserved(OM_TRY(connection.make_writer(options, reply, waiting.segments)));
  }
  return Error{Errc::kSystem, EMFILE, "no room for the descriptors of a put (raise RLIMIT_NOFILE)"};
}

}  // namespace

Result<Writer> Client::reserve(const PutOptions& options) {
  return reserve(options, connection_->timeout());
}

Result<Writer> Client::reserve(const PutOptions& options, std::chrono::milliseconds within) {
  wire::Reserve request = OM_TRY(client::to_reserve(options));
  if (options.ahead && options.length && options.direct && !options.disk) {
    client::AheadWish wish;
    wish.length = *options.length;
    wish.held = options.held;
    wish.deadline = client::deadline_in(within);
    if (auto ahead = connection_->take_ahead(wish); ahead && *ahead)
      return connection_->make_writer(options, **std::move(ahead));
    within = client::left_until(wish.deadline);
    if (within.count() == 0)
      return Error{Errc::kTimeout, 0, "the daemon did not answer in time about room"};
  }
  auto reserved = OM_TRY(reserve_through(*connection_, options, std::move(request), within));
  if (auto* writer = std::get_if<Writer>(&reserved)) return std::move(*writer);
  return Error{Errc::kMalformed, 0, "the daemon answered a reservation with an object"};
}

std::optional<Claim> Client::claim(const std::string& key) {
  if (!client::check_key(key, "key")) return std::nullopt;
  return connection_->claim(key);
}

Result<Writer> Client::reserve(const PutOptions& options, Claim claim,
                               std::chrono::milliseconds within) {
  client::ClaimState* const state = claim.state_.get();
  if (state == nullptr || state->connection != connection_ || state->key != options.key)
    return Error{Errc::kMalformed, 0, "this is not the claim of that key"};
  wire::Reserve request = OM_TRY(client::to_reserve(options));
  request.flags |= wire::kReserveClaimed;
  auto reserved = OM_TRY(reserve_through(*connection_, options, std::move(request), within, state));
  if (auto* writer = std::get_if<Writer>(&reserved)) return std::move(*writer);
  return Error{Errc::kMalformed, 0, "the daemon answered a reservation with an object"};
}

Result<std::optional<Writer>> Client::reserve_ahead(const PutOptions& options,
                                                    std::chrono::milliseconds within, bool again) {
  OM_TRY(client::check_key(options.key, "key"));
  OM_TRY(client::check_notes(options.metadata, options.tags));
  if (!options.length || !options.direct || options.disk) return std::optional<Writer>();
  client::AheadWish wish;
  wish.length = *options.length;
  wish.held = options.held;
  wish.at_once = true;
  wish.again = again;
  wish.deadline = client::deadline_in(within);
  auto ahead = OM_TRY(connection_->take_ahead(wish));
  if (!ahead) return std::optional<Writer>();
  return std::optional<Writer>(connection_->make_writer(options, *std::move(ahead)));
}

Result<std::variant<Lease, Writer>> Client::reserve_or_get(const PutOptions& options,
                                                           std::chrono::milliseconds wait) {
  wire::Reserve request = OM_TRY(client::to_reserve(options));
  request.flags |= wire::kReserveOrGet;
  request.wait_ms = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(wait.count(), 0, std::int64_t{24} * 3600 * 1000));
  auto reserved = OM_TRY(reserve_through(*connection_, options, std::move(request)));
  if (auto* lease = std::get_if<Lease>(&reserved))
    return std::variant<Lease, Writer>(std::move(*lease));
  if (auto* writer = std::get_if<Writer>(&reserved))
    return std::variant<Lease, Writer>(std::move(*writer));
  return Error{Errc::kMalformed, 0, "the daemon lets us follow, which was not asked for"};
}

Result<std::variant<Lease, Writer, Follower>> Client::reserve_or_follow(const PutOptions& options) {
  return reserve_or_follow(options, connection_->timeout());
}

Result<std::variant<Lease, Writer, Follower>> Client::reserve_or_follow(
    const PutOptions& options, std::chrono::milliseconds within) {
  wire::Reserve request = OM_TRY(client::to_reserve(options));
  request.flags |= wire::kReserveOrGet | wire::kReserveFollow;
  return reserve_through(*connection_, options, std::move(request), within);
}

Claim::Claim(std::unique_ptr<client::ClaimState> state) noexcept : state_(std::move(state)) {}
Claim::Claim(Claim&& other) noexcept = default;
Claim& Claim::operator=(Claim&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
Claim::~Claim() = default;
bool Claim::wanted() const { return state_->connection->is_wanted(*state_); }

Result<PutResult> Client::put(const PutOptions& options, std::span<const std::byte> body) {
  PutOptions declared = options;
  declared.length = body.size();
  declared.ahead = true;
  Writer writer = OM_TRY(reserve(declared));
  OM_TRY(writer.write(body));
  return std::move(writer).commit();
}

Result<PutResult> Client::put(const PutOptions& options, const std::string& body) {
  return put(options, std::as_bytes(std::span(body)));
}

Result<bool> Client::remove(const std::string& key) { return remove(key, connection_->timeout()); }

Result<bool> Client::remove(const std::string& key, std::chrono::milliseconds within) {
  OM_TRY(client::check_key(key, "key"));
  Call<wire::DeleteReply> waiting;
  auto answer =
      connection_->call(wire::Delete{static_cast<std::uint8_t>(wire::DeleteBy::kKey), key}, waiting,
                        client::deadline_in(within));
  if (answer) return true;
  if (answer.error().code == Errc::kNotFound) return false;
  return std::move(answer).error();
}

namespace {

// Removal of many takes time of its own.
constexpr std::chrono::seconds kRemoveManyLimit{60};

Result<std::uint64_t> remove_many(client::Connection& connection, wire::DeleteBy by,
                                  const std::string& what) {
  Call<wire::DeleteReply> waiting;
  auto answer = connection.call(wire::Delete{static_cast<std::uint8_t>(by), what}, waiting,
                                client::deadline_in(std::max<std::chrono::milliseconds>(
                                    connection.timeout(), kRemoveManyLimit)));
  if (answer) return waiting.reply.removed;
  if (answer.error().code == Errc::kNotFound) return std::uint64_t{0};
  return std::move(answer).error();
}

}  // namespace

Result<std::uint64_t> Client::remove_prefix(const std::string& prefix) {
  return remove_many(*connection_, wire::DeleteBy::kPrefix, prefix);
}

Result<std::uint64_t> Client::remove_tag(const std::string& tag) {
  OM_TRY(client::check_key(tag, "tag"));
  return remove_many(*connection_, wire::DeleteBy::kTag, tag);
}

Result<RemovalDone> Client::remove_everywhere(const RemovalRequest& request) {
  OM_TRY(client::check_key(request.what, "removal"));
  if (request.tag.size() > kTagBytesMax || request.origin.size() > kOwnerBytesMax)
    return Error{Errc::kMalformed, 0, "a tag or a cache's name of more than 255 bytes"};
  const auto wait = std::clamp<std::int64_t>(request.wait.count(), 0, 60'000);
  Call<wire::RemoveReply> waiting;
  OM_TRY(connection_->call(
      wire::Remove{static_cast<std::uint8_t>(request.kind), request.what, request.tag,
                   request.origin, request.token, static_cast<std::uint32_t>(wait)},
      waiting, client::deadline_in(connection_->timeout(), std::chrono::milliseconds(wait))));
  const wire::RemoveReply& reply = waiting.reply;
  return RemovalDone{reply.sequence, reply.time_ns, reply.removed, reply.caches, reply.unapplied};
}

// --- for caches

Result<Joined> Client::join(const std::string& name, std::uint64_t log_id, std::uint64_t sequence) {
  if (name.empty() || name.size() > kOwnerBytesMax)
    return Error{Errc::kMalformed, 0, "a cache's name has 1 to 255 bytes"};
  Call<wire::JoinReply> waiting;
  OM_TRY(connection_->call(wire::Join{name, log_id, sequence}, waiting));
  if (waiting.descriptors.size() != 1)
    return Error{Errc::kMalformed, 0, "JOIN was answered without its page"};
  Joined joined;
  joined.page = OM_TRY(RemovalHead::of(client::to_fd(std::move(waiting.descriptors[0]))));
  const wire::JoinReply& reply = waiting.reply;
  joined.log_id = reply.log_id;
  joined.head = reply.head;
  joined.applied = reply.applied;
  joined.from = reply.from;
  joined.gap = reply.gap != 0;
  joined.floor_ns = reply.floor_ns;
  return joined;
}

Result<std::optional<Removal>> Client::next_removal(std::chrono::milliseconds wait) {
  return connection_->next_removal(client::deadline_in(wait));
}

bool Client::acknowledge(std::uint64_t sequence) {
  return connection_->post(wire::Ack{sequence}, client::kAtOnce);
}

// --- the daemon

Result<std::vector<StatusItem>> Client::status() {
  Call<wire::StatusReply> waiting;
  OM_TRY(connection_->call(wire::StatusRequest{}, waiting));
  std::vector<StatusItem> items;
  for (wire::StatusItem& item : waiting.reply.items)
    items.push_back({std::move(item.name), item.number, std::move(item.text)});
  return items;
}

Result<RegionGrant> Client::open_region(const RegionRequest& request) {
  if (request.owner.empty() || request.owner.size() > kOwnerBytesMax)
    return Error{Errc::kMalformed, 0,
                 "an owner's name has 1 to " + std::to_string(kOwnerBytesMax) + " bytes"};
  Call<wire::RegionReply> waiting;
  OM_TRY(connection_->call(
      wire::RegionOpen{request.owner, request.memory_bytes, request.disk_bytes}, waiting));
  const wire::RegionReply& reply = waiting.reply;
  const bool with_directory = reply.with_directory != 0;
  if (waiting.descriptors.size() != std::size_t{1} + std::size_t{with_directory} ||
      reply.memory.with_descriptor == 0)
    return Error{Errc::kMalformed, 0, "a region came without its descriptors"};
  RegionGrant grant;
  grant.region_id = reply.region_id;
  grant.fresh = reply.fresh != 0;
  grant.memory = client::to_fd(std::move(waiting.descriptors[0]));
  grant.memory_bytes = reply.memory.size_bytes;
  if (with_directory) grant.directory = client::to_fd(std::move(waiting.descriptors[1]));
  grant.disk_bytes = reply.disk_bytes;
  return grant;
}

Result<std::vector<RegionEntry>> Client::list_regions() {
  Call<wire::RegionListReply> waiting;
  OM_TRY(connection_->call(wire::RegionListRequest{}, waiting));
  std::vector<RegionEntry> regions;
  for (wire::RegionEntry& entry : waiting.reply.regions)
    regions.push_back(
        {std::move(entry.owner), entry.memory_bytes, entry.disk_bytes, entry.held != 0, entry.pid});
  return regions;
}

Result<bool> Client::drop_region(const std::string& owner) {
  Call<wire::Empty> waiting;
  auto answer = connection_->call(wire::RegionDrop{owner}, waiting);
  if (answer) return true;
  if (answer.error().code == Errc::kNotFound) return false;
  return std::move(answer).error();
}

Result<bool> Client::drain_region(const std::string& owner, bool on) {
  Call<wire::Empty> waiting;
  auto answer =
      connection_->call(wire::RegionDrain{owner, static_cast<std::uint8_t>(on ? 1 : 0)}, waiting);
  if (answer) return true;
  if (answer.error().code == Errc::kNotFound) return false;
  return std::move(answer).error();
}

void Client::look() { connection_->look(); }

void Client::defer(std::chrono::milliseconds how_long) {
  connection_->defer(client::deadline_in(how_long));
}

std::size_t Client::flush() { return connection_->flush(); }

// --- events

Result<void> Client::subscribe(std::uint32_t kinds, const std::string& prefix) {
  Call<wire::Empty> waiting;
  OM_TRY(connection_->call(wire::Subscribe{kinds, prefix}, waiting));
  connection_->subscribed(kinds != 0);
  return {};
}

Result<std::optional<Event>> Client::next_event(std::chrono::milliseconds wait) {
  return connection_->next_event(client::deadline_in(wait));
}

}  // namespace om
