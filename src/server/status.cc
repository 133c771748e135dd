#include "server/status.h"

#include <unistd.h>

#include <algorithm>

#include "wire/messages.h"

namespace om::server {

namespace {

struct Named {
  wire::Type type;
  const char* name;
};
constexpr Named kRequests[] = {
    {wire::Type::kHello, "hello"},
    {wire::Type::kGet, "get"},
    {wire::Type::kRelease, "release"},
    {wire::Type::kReserve, "reserve"},
    {wire::Type::kExtend, "extend"},
    {wire::Type::kCommit, "commit"},
    {wire::Type::kAbort, "abort"},
    {wire::Type::kDelete, "delete"},
    {wire::Type::kStat, "stat"},
    {wire::Type::kList, "list"},
    {wire::Type::kRegion, "region"},
    {wire::Type::kRegionList, "region_list"},
    {wire::Type::kRegionDrop, "region_drop"},
    {wire::Type::kRegionDrain, "region_drain"},
    {wire::Type::kStatus, "status"},
    {wire::Type::kDescribe, "describe"},
    {wire::Type::kSubscribe, "subscribe"},
    {wire::Type::kFollow, "follow"},
    {wire::Type::kProgress, "progress"},
    {wire::Type::kRoom, "room"},
    {wire::Type::kPut, "put"},
    {wire::Type::kJoin, "join"},
    {wire::Type::kRemove, "remove"},
    {wire::Type::kAck, "ack"},
    {wire::Type::kAmend, "amend"},
    {wire::Type::kHold, "hold"},
    {wire::Type::kRefresh, "refresh"},
    {wire::Type::kUnclaim, "unclaim"},
};

std::string underscored(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) {
        return !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9');
      },
      '_');
  return text;
}

}  // namespace

std::vector<store::StatusItem> status_items(const Shared& shared) {
  const Statistics& s = shared.statistics;
  std::vector<store::StatusItem> of_store = shared.store.status();
  // What clients have found by themselves is a hit as well.
  std::uint64_t by_board = 0;
  for (const store::StatusItem& item : of_store)
    if (item.name == "board.gets") by_board = item.number;
  std::vector<store::StatusItem> items;
  const auto number = [&](std::string name, std::uint64_t value) {
    items.push_back({std::move(name), value, ""});
  };
  items.push_back({"daemon.version", 0, OM_VERSION});
  number("daemon.pid", static_cast<std::uint64_t>(::getpid()));
  number("daemon.epoch", shared.epoch);
  number("connections.open", shared.totals.connections.value());
  number("connections.max", shared.limits.connections_max);
  number("connections.accepted_total", s.connections_accepted);
  number("connections.shed_total", s.connections_shed);
  number("connections.malformed_total", s.malformed_packets);
  number("connections.paused_total", s.reads_paused);
  number("replies.queued_bytes", shared.totals.reply_bytes.value());
  number("descriptors.under_way", shared.totals.descriptors.value());
  number("descriptors.under_way_max", shared.limits.descriptors_max);
  number("get.hits_total", s.get_hits + by_board);
  number("get.misses_total", s.get_misses);
  number("get.bytes_total", s.get_bytes);
  number("put.bytes_total", s.put_bytes);
  number("waits.timed_out_total", s.waits_timed_out);
  number("events.subscribers", shared.subscribers);
  number("events.sent_total", s.events_sent);
  number("events.lost_total", s.events_lost);
  number("removals.caches", shared.removals.caches());
  number("removals.caches_behind", shared.removals.behind());
  number("removals.recorded_total", shared.removals.recorded());
  number("removals.failed_total", shared.removals.failed());
  number("removals.unapplied_total", shared.removals.unapplied());
  for (const Named& request : kRequests)
    number(std::string("requests.") + request.name + "_total",
           s.requests[static_cast<std::size_t>(request.type)]);
  for (std::size_t code = 1; code <= static_cast<std::size_t>(Errc::kUnsupported); ++code)
    number("refused." + underscored(to_string(static_cast<Errc>(code))) + "_total",
           s.refusals[code]);
  for (store::StatusItem& item : of_store) items.push_back(std::move(item));
  return items;
}

std::string prometheus_text(const std::vector<store::StatusItem>& items) {
  std::string text;
  for (const store::StatusItem& item : items) {
    const std::string name = "objmapper_" + underscored(item.name);
    if (item.text.empty()) {
      text += "# TYPE " + name + (name.ends_with("_total") ? " counter\n" : " gauge\n");
      text += name + " " + std::to_string(item.number) + "\n";
      continue;
    }
    text += "# TYPE " + name + "_info gauge\n" + name + "_info{value=\"";
    for (const char c : item.text) {
      if (c == '\\' || c == '"') text += '\\';
      if (c == '\n')
        text += "\\n";
      else
        text += c;
    }
    text += "\"} 1\n";
  }
  return text;
}

}  // namespace om::server
