// commit(): one writer or many. Bodies in rooms (room.cc) go together, up to 64 in a PUT; others
// are a COMMIT each. All requests are sent before the first answer is waited for, as far as the
// daemon's window for replies that wait goes.
#include <algorithm>
#include <chrono>

#include "client/state.h"

namespace om {

namespace client {

std::size_t encoded_bytes(const wire::PutBody& body) {
  std::size_t bytes = 3 * 8 + 4 + body.key.size() + 4 + 8 + 4 + body.metadata.size() + 4 + 2 * 8;
  for (const std::string& tag : body.tags) bytes += 4 + tag.size();
  return bytes;
}

Result<PutResult> result_of(const wire::PutItem& item) {
  if (const auto status = static_cast<Errc>(item.status); status != Errc::kOk)
    return Error{status, 0, "put"};
  return PutResult{item.object_id, item.created_ns};
}

namespace {

// Of one connection: far below what makes the daemon stop reading from us.
constexpr std::size_t kUnderWayMax = 64;

// A request under way, and whose answers it brings.
struct Request {
  std::vector<std::size_t> writers;
  std::shared_ptr<Connection> connection;
  Deadline deadline{};
  std::uint64_t room_id = 0;  // 0: a COMMIT
  Call<wire::CommitReply> commit;
  Call<wire::PutReply> put;
};

using Answers = std::vector<Result<PutResult>>;
using States = std::vector<std::unique_ptr<WriterState>>;

// Committing may copy the body: the time limit grows with it, as for a disk of 20 MB/s.
std::chrono::milliseconds limit_of(const WriterState& state) {
  return state.limit + std::chrono::milliseconds(state.written / (20 * 1024) + 1);
}

// What goes into one packet from writer `first` on, without those that have their answer.
std::unique_ptr<Request> next_request(const States& states, std::size_t& at) {
  auto request = std::make_unique<Request>();
  std::size_t bytes = wire::Header::kBytes + 8 + 4;
  std::chrono::milliseconds limit{};
  for (; at < states.size() && request->writers.size() < wire::kBodiesPerPutMax; ++at) {
    const WriterState* const state = states[at].get();
    if (state == nullptr) continue;
    const std::uint64_t room_id = state->ahead ? state->ahead->room->id : 0;
    const bool first = request->writers.empty();
    if (!first &&
        (room_id == 0 || room_id != request->room_id || state->connection != request->connection ||
         bytes + encoded_bytes(state->put) > kPacketBytesMax))
      break;
    request->room_id = room_id;
    request->connection = state->connection;
    request->writers.push_back(at);
    bytes += encoded_bytes(state->put);
    limit = std::max(limit, limit_of(*state));
    if (room_id == 0) {
      ++at;
      break;
    }
  }
  request->deadline = deadline_in(limit);
  return request;
}

Result<void> send(Request& request, States& states) {
  if (request.room_id == 0) {
    const WriterState& state = *states[request.writers.front()];
    return request.connection->begin(wire::Commit{state.put_id, state.written}, request.commit,
                                     request.deadline);
  }
  wire::Put message;
  message.room_id = request.room_id;
  for (const std::size_t i : request.writers) message.bodies.push_back(std::move(states[i]->put));
  auto sent = request.connection->begin(message, request.put, request.deadline);
  if (sent) {
    for (const std::size_t i : request.writers) states[i]->is_sent();
    return sent;
  }
  for (std::size_t i = 0; i < request.writers.size(); ++i)
    states[request.writers[i]]->put = std::move(message.bodies[i]);
  return sent;
}

// The daemon has heard of none of them.
void give_up_all(const Request& request, States& states, Answers& answers, const Error& why) {
  for (const std::size_t i : request.writers) {
    answers[i] = why;
    give_up(std::move(states[i]));
  }
}

void take_answers(Request& request, States& states, Answers& answers, const Result<void>& done) {
  for (std::size_t i = 0; i < request.writers.size(); ++i) {
    auto& answer = answers[request.writers[i]];
    auto state = std::move(states[request.writers[i]]);
    if (!done) {
      // Whether it was published is not known after a time-out; if not, this ends it.
      if (request.room_id == 0) give_up(std::move(state));
      answer = done.error();
    } else if (request.room_id == 0) {
      answer = PutResult{request.commit.reply.object_id, request.commit.reply.created_ns};
    } else if (request.put.reply.items.size() != request.writers.size()) {
      answer = Error{Errc::kMalformed, 0, "the daemon answered for another number of bodies"};
    } else {
      const wire::PutItem& item = request.put.reply.items[i];
      if (static_cast<Errc>(item.status) != Errc::kMalformed)
        state->ahead->room->left -= Room::rounded(state->ahead->length);
      answer = result_of(item);
    }
  }
}

// No memory for what comes next. What went in a PUT the daemon has heard of, as after a time-out.
void give_up_the_rest(std::vector<std::unique_ptr<Request>>& under_way, States& states) noexcept {
  for (const auto& request : under_way) {
    if (request->room_id == 0) continue;
    for (const std::size_t i : request->writers) states[i].reset();
  }
  under_way.clear();  // nobody is to wait for their answers
  for (auto& state : states) give_up(std::move(state));
}

}  // namespace
}  // namespace client

std::vector<Result<PutResult>> commit(std::vector<Writer> writers) {
  client::Answers answers(writers.size(), Error{Errc::kMalformed, 0, "an empty writer"});
  for (std::size_t i = 0; i < writers.size(); ++i) {
    const auto& state = writers[i].state_;
    const auto length = state != nullptr ? state->length() : std::nullopt;
    if (!length || state->written == *length) continue;
    answers[i] = Error{Errc::kMalformed, 0,
                       "the body has " + std::to_string(state->written) + " bytes, but " +
                           std::to_string(*length) + " were declared"};
    writers[i] = Writer();  // aborted
  }
  client::States states;
  std::vector<std::unique_ptr<client::Request>> under_way;
  states.reserve(writers.size());
  under_way.reserve(std::min(writers.size(), client::kUnderWayMax));
  // From here on they end by what happens to their states: until then each Writer sees to its own.
  for (Writer& writer : writers) states.push_back(std::move(writer.state_));
  try {
    for (std::size_t at = 0; at < states.size();) {
      under_way.clear();
      while (at < states.size() && under_way.size() < client::kUnderWayMax) {
        auto request = client::next_request(states, at);
        if (request->writers.empty()) break;
        if (auto sent = client::send(*request, states); !sent)
          client::give_up_all(*request, states, answers, sent.error());
        else
          under_way.push_back(std::move(request));
      }
      for (const auto& request : under_way) {
        const bool put = request->room_id != 0;
        auto& waiter = put ? static_cast<client::Waiter&>(request->put)
                           : static_cast<client::Waiter&>(request->commit);
        const auto done = request->connection->await(waiter, request->deadline);
        client::take_answers(*request, states, answers, done);
      }
    }
  } catch (...) {
    client::give_up_the_rest(under_way, states);
    throw;
  }
  return answers;
}

}  // namespace om
