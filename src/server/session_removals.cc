// A session's requests about removals that reach every cache: JOIN, REMOVE, ACK, and the REMOVAL
// events that it is sent. What they do is in removal_hub.h.
#include "base/ban_text.h"
#include "base/limits.h"
#include "server/session.h"

namespace om::server {

namespace {

std::optional<Error> wrong(const wire::Remove& request) {
  if (request.kind < 1 || request.kind > 4)
    return Error{Errc::kMalformed, 0,
                 "a removal is a purge (1), a ban (2), a tag (3) or a soft tag (4)"};
  const auto kind = static_cast<wire::RemovalKind>(request.kind);
  for (const std::string* const text : {&request.what, &request.tag, &request.origin})
    if (text->find('\0') != std::string::npos)
      return Error{Errc::kMalformed, 0, "a NUL byte in a removal"};
  if (request.what.empty()) return Error{Errc::kMalformed, 0, "a removal of nothing"};
  if (!request.tag.empty() && kind != wire::RemovalKind::kPurge)
    return Error{Errc::kMalformed, 0, "only a purge has a tag as well"};
  if ((kind == wire::RemovalKind::kTag || kind == wire::RemovalKind::kTagSoft) &&
      request.what.size() > kTagBytesMax)
    return Error{Errc::kMalformed, 0, "a tag has 1 to 255 bytes"};
  if (kind == wire::RemovalKind::kBan)
    if (auto tests = parse_ban(request.what, BanQuotes::kCanonical); !tests)
      return std::move(tests).error();
  return std::nullopt;
}

}  // namespace

void Session::join(std::uint64_t id, const wire::Join& request) {
  constexpr auto kType = wire::Type::kJoin;
  if (descriptor_budget() < 1)
    return refuse(kType, id, {Errc::kBusy, 0, "too many descriptors under way: ask again"});
  auto joined = shared_.removals.join(*this, request);
  if (!joined) return refuse(kType, id, joined.error());
  std::vector<UniqueFd> descriptors;
  descriptors.push_back(std::move(joined->second));
  reply(kType, id, joined->first, std::move(descriptors));
  shared_.removals.pump(*this);
}

void Session::remove_everywhere(std::uint64_t id, wire::Remove request) {
  if (const auto error = wrong(request)) return refuse(wire::Type::kRemove, id, *error);
  shared_.removals.remove(*this, id, std::move(request));
}

void Session::removed_everywhere(std::uint64_t id, const Result<wire::RemoveReply>& answer) {
  if (closed_) return;
  if (!answer) return refuse(wire::Type::kRemove, id, answer.error());
  reply(wire::Type::kRemove, id, *answer);
}

void Session::acknowledge(std::uint64_t /*id*/, wire::Ack request) {
  shared_.removals.acknowledge(*this, request.sequence);
}

bool Session::on_removal(const store::Removal& removal) {
  if (closed_ || outbox_.packets() >= kRepliesQueuedMax / 2 ||
      outbox_.bytes() >= kReplyBytesQueuedMax / 2)
    return false;
  ++shared_.statistics.events_sent;
  send({wire::encode(wire::Type::kRemoval, 0,
                     wire::Removal{removal.sequence, removal.time_ns,
                                   static_cast<std::uint8_t>(removal.kind), removal.what,
                                   removal.tag, removal.origin, removal.token},
                     wire::kReplyFlag),
        {}});
  return !closed_;
}

}  // namespace om::server
