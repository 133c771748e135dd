#include "server/removal_hub.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/limits.h"
#include "posix/file.h"
#include "posix/memfd.h"
#include "server/session.h"

namespace om::server {

namespace {

// Removals that may be on their way to one cache: they fit its replies' queue many times.
constexpr std::uint64_t kWindow = 256;
constexpr std::uint32_t kRemovalWaitMsMax = 60'000;
constexpr std::size_t kRemovalWaitsMax = 65'536;

static_assert(sizeof(wire::HeadPage) <= wire::HeadPage::kBytes);

}  // namespace

RemovalHub::~RemovalHub() {
  // Caches that still look at the page must not believe that nothing has happened since.
  if (page_) publish_head(~std::uint64_t{0});
}

Result<void> RemovalHub::make_page() {
  if (page_) return {};
  UniqueFd file = OM_TRY(make_memfd("objmapper-removals", wire::HeadPage::kBytes));
  OM_TRY(seal_length(file.borrow()));
  Mapping page = OM_TRY(Mapping::of(file.borrow(), 0, wire::HeadPage::kBytes, Access::kReadWrite));
  auto* head = reinterpret_cast<wire::HeadPage*>(page.data());
  head->magic = wire::HeadPage::kMagic;
  head->epoch = epoch_;
  head->log_id = store_.removals().id();
  page_file_ = std::move(file);
  page_ = std::move(page);
  publish_head(store_.removals().head());
  return {};
}

void RemovalHub::publish_head(std::uint64_t head) {
  if (!page_) return;
  std::atomic_ref<std::uint64_t>(reinterpret_cast<wire::HeadPage*>(page_.data())->head)
      .store(head, std::memory_order_release);
}

Result<std::pair<wire::JoinReply, UniqueFd>> RemovalHub::join(Session& session,
                                                              const wire::Join& request) {
  if (request.name.empty() ||
      request.name.find_first_of(std::string("\0\n", 2)) != std::string::npos)
    return Error{Errc::kMalformed, 0, "a cache's name is a text without NUL bytes and line ends"};
  OM_TRY(make_page());
  UniqueFd page = OM_TRY(reopen(page_file_.borrow(), O_RDONLY));
  store::RemovalLog& log = store_.removals();
  const auto known = log.applied(request.name);
  wire::JoinReply reply;
  reply.log_id = log.id();
  reply.head = log.head();
  reply.floor_ns = log.floor_ns();
  const std::uint64_t before_oldest = log.oldest() - 1;
  if (request.log_id == log.id() && request.sequence <= log.head()) {
    reply.applied = request.sequence;
    reply.gap = request.sequence < before_oldest ? 1 : 0;
    reply.from = std::max(request.sequence, before_oldest) + 1;
  } else {
    // It knows nothing: it needs every ban there is, and applies those that the name has not yet.
    reply.applied = request.log_id == 0 ? known.value_or(0) : 0;
    reply.gap = (request.log_id != 0 || reply.applied < before_oldest) ? 1 : 0;
    reply.from = log.oldest();
  }
  if (reply.gap != 0) reply.applied = log.head();
  // Never more than it has said itself: what it has to drop is still there.
  const std::uint64_t sure = reply.gap != 0 ? 0 : reply.applied;
  // Names come and go with containers: one that is not here makes room.
  const auto is_here = [this](const std::string& name) {
    return std::ranges::any_of(members_,
                               [&name](const auto& one) { return one.second.name == name; });
  };
  if (!log.note_applied(request.name, sure) &&
      !(log.forget_cache(is_here) && log.note_applied(request.name, sure)))
    return Error{Errc::kQuota, 0, "the removal log knows too many caches"};
  for (auto& [other, member] : members_) {
    if (member.name != request.name || other == &session) continue;
    spdlog::info("cache joins again name=\"{}\" earlier_pid={} pid={}", request.name, other->pid(),
                 session.pid());
    // It would not learn of a removal any more, and not know that: it has to join anew.
    hang_up(*other);
    leave(*other);
    break;
  }
  leave(session);
  members_[&session] = {request.name, reply.from - 1, reply.from - 1};
  return std::pair(reply, std::move(page));
}

void RemovalHub::leave(Session& session) {
  if (members_.erase(&session) == 0) return;
  for (Wait& wait : waits_)
    if (wait.open.erase(&session) > 0) ++wait.gone;
  answer_ready();
}

void RemovalHub::acknowledge(Session& session, std::uint64_t sequence) {
  const auto found = members_.find(&session);
  if (found == members_.end()) return;
  Member& member = found->second;
  // Of what it was not told it cannot know.
  if (sequence < member.acknowledged || sequence > member.sent) return;
  (void)store_.removals().note_applied(member.name, sequence);
  // After a gap, that is what it says when it has dropped everything.
  if (sequence == member.acknowledged) return;
  member.acknowledged = sequence;
  for (Wait& wait : waits_) {
    if (wait.reply.sequence > sequence) break;
    wait.open.erase(&session);
  }
  answer_ready();
  pump(session);
}

void RemovalHub::send(Session& session, Member& member) {
  const store::RemovalLog& log = store_.removals();
  while (member.sent < log.head() && member.sent - member.acknowledged < kWindow) {
    const store::Removal* const removal = log.find(member.sent + 1);
    // It was so slow that the log has gone on without it: it has to join anew.
    if (removal == nullptr) return hang_up(session);
    if (!session.on_removal(*removal)) return;
    ++member.sent;
  }
}

void RemovalHub::hang_up(Session& session) {
  loop_.post([weak = session.weak_from_this()] {
    if (const auto alive = weak.lock()) alive->hang_up();
  });
}

void RemovalHub::pump(Session& session) {
  const auto found = members_.find(&session);
  if (found != members_.end()) send(session, found->second);
}

void RemovalHub::pump_all() {
  // on_removal may end a session, which leaves: look each up again.
  std::vector<Session*> all;
  for (const auto& [session, member] : members_) all.push_back(session);
  for (Session* const session : all) pump(*session);
}

void RemovalHub::remove(Session& session, std::uint64_t request_id, wire::Remove request) {
  if (waits_.size() >= kRemovalWaitsMax)
    return session.removed_everywhere(
        request_id, Error{Errc::kQuota, 0, "too many removals wait for their caches"});
  store::Removal removal;
  removal.kind = static_cast<store::RemovalKind>(request.kind);
  removal.what = std::move(request.what);
  removal.tag = std::move(request.tag);
  removal.origin = request.origin;
  removal.token = request.token;
  const auto recorded = store_.record(std::move(removal));
  if (!recorded) {
    ++failed_;
    return session.removed_everywhere(
        request_id, Error{recorded.error().code, recorded.error().sys_errno,
                          "the removal cannot be recorded: " + recorded.error().what});
  }
  ++recorded_;
  publish_head(recorded->sequence);
  waits_.emplace_back();
  const WaitIterator wait = std::prev(waits_.end());
  wait->session = session.weak_from_this();
  wait->request_id = request_id;
  wait->reply = {recorded->sequence, recorded->time_ns, recorded->removed, 0, 0};
  for (const auto& [other, member] : members_)
    if (request.origin.empty() || member.name != request.origin) wait->open.emplace(other, true);
  wait->reply.caches = static_cast<std::uint32_t>(wait->open.size());
  wait->timer = loop_.after(std::chrono::milliseconds(std::min(request.wait_ms, kRemovalWaitMsMax)),
                            [this, wait] {
                              wait->out_of_time = true;
                              answer_ready();
                            });
  pump_all();
  store_.sync_removals([this, sequence = recorded->sequence](const Result<void>& synced) {
    const auto found = std::ranges::find_if(
        waits_, [sequence](const Wait& one) { return one.reply.sequence == sequence; });
    if (found == waits_.end()) return;
    if (synced) {
      found->synced = true;
      return answer_ready();
    }
    ++failed_;
    const Wait failed = std::move(*found);
    waits_.erase(found);
    if (const auto asker = failed.session.lock())
      asker->removed_everywhere(failed.request_id,
                                Error{synced.error().code, synced.error().sys_errno,
                                      "the removal cannot be put on disk: " + synced.error().what});
  });
}

// An answer may find its connection dead, which then leaves, which may make others ready: so each
// turn begins anew.
void RemovalHub::answer_ready() {
  while (true) {
    // Without its sync there is nothing to promise, whatever the time is.
    const auto ready = std::ranges::find_if(waits_, [](const Wait& wait) {
      return wait.synced && (wait.open.empty() || wait.out_of_time);
    });
    if (ready == waits_.end()) return;
    ready->reply.unapplied = static_cast<std::uint32_t>(ready->open.size()) + ready->gone;
    unapplied_ += ready->reply.unapplied;
    const Wait done = std::move(*ready);
    waits_.erase(ready);
    if (const auto session = done.session.lock())
      session->removed_everywhere(done.request_id, done.reply);
  }
}

std::size_t RemovalHub::behind() const {
  const std::uint64_t head = store_.removals().head();
  return static_cast<std::size_t>(std::ranges::count_if(
      members_, [head](const auto& one) { return one.second.acknowledged < head; }));
}

}  // namespace om::server
