// Posts: bodies in room ahead whose commits nobody waits for. Where Client::defer() says so they
// are kept for a moment, and those of one room go in one PUT: a system call, a wake-up of the
// daemon, an entry in its journal and an answer for all of them.
//
//   kept    in posts_, and with them their rooms, which do not end before
//   going   taken out by the thread that sends what waits (send_kept())
//   gone    a LaterPut waits for their answer; or they are kept again, for the socket was full; or
//           their time is up, or the connection has ended, and they have failed
//
// They go when they are many, before this connection asks anything else (but for the next room),
// and with flush(). What has failed the daemon has not heard of: what of it is held is left to its
// lease.
#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "client/errors.h"
#include "client/state.h"

namespace om::client {

namespace {

constexpr std::size_t kPostsMax = wire::kBodiesPerPutMax;
// A longer one costs many times its message.
constexpr std::uint64_t kPostBodyBytesMax = std::uint64_t{1} << 20;
// Of bodies, together.
constexpr std::uint64_t kPostBodiesBytesMax = std::uint64_t{8} << 20;
constexpr std::size_t kPostBytesMax = kPacketBytesMax / 2;

// A wire::Put to be sent, without a copy of its bodies.
struct PutOfPosts {
  static constexpr wire::Type kType = wire::Type::kPut;
  std::uint64_t room_id = 0;
  const std::list<Post>& posts;
  template <class A>
  void fields(A& a) {
    a(room_id), a(static_cast<std::uint32_t>(posts.size()));
    for (const Post& post : posts) a(post.body);
  }
};

// Its answer, which is for a function each.
class LaterPut final : public Waiter {
 public:
  explicit LaterPut(std::size_t posts) : Waiter(true) { done.reserve(posts); }
  std::vector<std::function<void(Result<PutResult>)>> done;
  Result<void> take(Connection& /*connection*/, std::span<const std::byte> packet,
                    std::vector<UniqueFd>& /*received*/) override {
    reply_ = OM_TRY(wire::decode_body<wire::PutReply>(packet));
    return {};
  }

 private:
  void concluded(std::optional<Error> failure) override {
    const std::unique_ptr<LaterPut> self(this);
    if (!failure && reply_.items.size() != done.size())
      failure = Error{Errc::kMalformed, 0, "the daemon answered for another number of bodies"};
    for (std::size_t i = 0; i < done.size(); ++i) {
      try {
        done[i](failure ? Result<PutResult>(copy_of(*failure)) : result_of(reply_.items[i]));
      } catch (const std::exception&) {
        // Its own trouble: the others are to be told as well.
        continue;
      }
    }
  }
  wire::PutReply reply_;
};

}  // namespace

void Connection::defer(Deadline until) {
  const std::lock_guard lock(mutex_);
  defer_until_ = until;
}

bool Connection::keep(WriterState& state, std::function<void(Result<PutResult>)>& done) {
  if (state.ahead->length > kPostBodyBytesMax) return false;
  const Deadline now = std::chrono::steady_clock::now();
  const Deadline deadline = deadline_in(state.limit);
  // Whoever waits for it has waited for the whole fetch.
  const bool wanted = state.claim != nullptr && is_wanted(*state.claim);
  {
    const std::lock_guard lock(mutex_);
    ++post_count_;
    if (broken_ || now >= defer_until_) return false;
    Post& post = posts_.emplace_back();  // nothing of what follows fails
    post.bytes = encoded_bytes(state.put);
    post.ahead = std::move(*state.ahead);
    post.body = std::move(state.put);
    post.done = std::move(done);
    post.deadline = deadline;
    if (state.claim != nullptr) post.claim = state.claim->hash;
    state.is_sent();  // it will be, or has failed
    post_bytes_ += post.bytes;
    has_unsent_.store(true, std::memory_order_relaxed);
    post_body_bytes_ += post.ahead.length;
    if (!wanted && posts_.size() < kPostsMax && post_bytes_ < kPostBytesMax &&
        post_body_bytes_ < kPostBodiesBytesMax)
      return true;
  }
  send_kept(deadline);
  return true;
}

bool Connection::keeps_more_than(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  return post_body_bytes_ > bytes;
}

std::size_t Connection::flush() {
  if (has_unsent_.load(std::memory_order_relaxed)) flush_unsent(kAtOnce);
  const std::lock_guard lock(mutex_);
  return std::exchange(post_count_, 0);
}

// Answers that lie in a socket which is closed make the other side deaf to what it has not read.
void Connection::end_posts() {
  {
    const std::lock_guard lock(mutex_);
    defer_until_ = {};
    if (posts_.empty()) return;
  }
  look();
  send_kept(kAtOnce);
}

// The first, and those that go with it into one message: of its room, whatever stands between, as
// long as that is not about the same key.
std::list<Post> Connection::take_posts() {
  std::list<Post> taken;
  std::size_t bytes = wire::Header::kBytes + 8 + 4;
  for (auto at = posts_.begin(); at != posts_.end() && taken.size() < wire::kBodiesPerPutMax;) {
    const auto post = at++;
    if (!taken.empty()) {
      if (post->ahead.room != taken.front().ahead.room || bytes + post->bytes > kPacketBytesMax)
        continue;
      if (std::any_of(posts_.begin(), post,
                      [&](const Post& before) { return before.body.key == post->body.key; }))
        continue;
    }
    bytes += post->bytes;
    post_bytes_ -= post->bytes;
    post_body_bytes_ -= post->ahead.length;
    taken.splice(taken.end(), posts_, post);
  }
  return taken;
}

// Without the lock meanwhile. False: the rest has to wait as well.
bool Connection::send_posts(std::unique_lock<std::mutex>& lock, Deadline until) {
  std::list<Post> posts = take_posts();
  lock.unlock();
  const auto sent = put_together(posts, until);
  if (sent) {
    for (const Post& post : posts) post.ahead.room->left -= Room::rounded(post.ahead.length);
    posts.clear();  // rooms may end with them
    lock.lock();
    return true;
  }
  const Errc why = sent.error().code;
  const bool again = (why == Errc::kTimeout || why == Errc::kSystem) &&
                     !is_broken_.load(std::memory_order_acquire);
  const Deadline now = std::chrono::steady_clock::now();
  std::list<Post> failed;
  for (auto at = posts.begin(); at != posts.end();) {
    const auto post = at++;
    if (!again || post->deadline <= now) failed.splice(failed.end(), posts, post);
  }
  fail(std::move(failed), sent.error());
  lock.lock();
  for (const Post& post : posts) {
    post_bytes_ += post.bytes;
    post_body_bytes_ += post.ahead.length;
  }
  const bool go_on = posts.empty() || broken_.has_value();
  posts_.splice(posts_.begin(), posts);
  return go_on;
}

// An error: they are as they were.
Result<void> Connection::put_together(std::list<Post>& posts, Deadline until) {
  std::unique_ptr<LaterPut> later;
  const auto put = [&]() -> Result<void> {
    try {
      const std::string packet =
          wire::encode_request(next_id(), PutOfPosts{posts.front().ahead.room->id, posts});
      later = std::make_unique<LaterPut>(posts.size());
      for (Post& post : posts) later->done.push_back(std::move(post.done));
      return submit_now(*later, wire::Type::kPut, packet, until);
    } catch (const std::exception&) {
      return no_memory();
    }
  };
  auto sent = put();
  if (sent) {
    (void)later.release();  // ends itself; it may be over already
  } else if (later != nullptr) {
    auto done = later->done.begin();
    for (Post& post : posts) post.done = std::move(*done++);
  }
  return sent;
}

void Connection::fail(std::list<Post> posts, const Error& why) {
  for (const Post& post : posts) {
    try {
      if (post.body.object_id != 0) leave(post.ahead);
    } catch (const std::exception&) {
      // The room must not end: with the connection, what is held in it stays.
      break_off(no_memory());
    }
    try {
      if (post.claim) unclaim(*post.claim, post.body.key);
    } catch (const std::exception&) {
      break_off(no_memory());  // which ends the claim as well
    }
    try {
      post.done(copy_of(why));
    } catch (const std::exception&) {
      // Its own trouble: the others are to be told as well.
      continue;
    }
  }
  posts.clear();  // rooms may end with them
}

}  // namespace om::client
