#include "lane.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/assert.h"
#include "base/units.h"
#include "lane_choice.h"
#include "posix/read_ahead.h"
#include "settings.h"

namespace om::vmod {

using abi::varnish;

namespace {

// Addresses that stand for bytes of a file. Whoever reads there is stopped at once.
constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 30;
const std::byte* window() {
  static const std::byte* const base = [] {
    void* at = ::mmap(nullptr, kWindowBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
  }();
  return base;
}

// One call of sendfile. Smaller ones cost up to twice the CPU; between two of them the send
// time-out is looked at. A client that made us wait gets as much as one wait can be for: the idle
// time-out of the socket counts for every 64 KiB of a call anew.
constexpr std::uint64_t kPieceBytes = 1024 * 1024;
constexpr std::uint64_t kPieceBytesSlow = 64 * 1024;
constexpr double kSlowSeconds = 1;

// Large bodies are asked for in parts, each of which is as popular as it is.
constexpr std::uint64_t kPartBytes = std::uint64_t{8} << 20;

// The kernel takes folios out of the page cache as a whole or not at all, and one that lies across
// the end of what it is told to take out stays. None lies across a multiple of this.
constexpr std::uint64_t kFolioBytesMax = std::uint64_t{2} << 20;

struct vdp_entry* last_of(struct vdp_ctx* vdc) {
  return VTAILQ_LAST(&vdc->vdp, vdp_entry_s);
}

// Nothing but range before V1B, which writes to an HTTP/1 socket.
bool is_plain(struct vdp_ctx* vdc) {
  const struct vdp_entry* last = last_of(vdc);
  const struct vdp_entry* one = nullptr;
  VTAILQ_FOREACH(one, &vdc->vdp, list)
  if (one != last && one->vdp != varnish.VDP_range) return false;
  return true;
}

bool is_http1(struct worker* wrk, const struct req* req, struct vdp_ctx* vdc) {
  if (req->transport != varnish.HTTP1_transport || wrk->v1l == nullptr) return false;
  const auto* v1l = reinterpret_cast<const struct v1l*>(wrk->v1l);
  if (v1l->magic != OM_V1L_MAGIC || v1l->wfd == nullptr || *v1l->wfd != req->sp->fd ||
      req->sp->fd < 0)
    return false;
  return std::strcmp(last_of(vdc)->vdp->name, "V1B") == 0;
}

// The first byte that the client gets.
std::uint64_t first_byte_of(const struct http* resp) {
  const char* range = nullptr;
  if (http_GetHdr(resp, H_Content_Range, &range) == 0 || std::strncmp(range, "bytes ", 6) != 0)
    return 0;
  return std::strtoull(range + 6, nullptr, 10);
}

Residency residency_of(std::span<const BodyPart> parts, std::uint64_t from, std::uint64_t length) {
  for (const BodyPart& part : parts) {
    if (from >= part.length) {
      from -= part.length;
      continue;
    }
    const std::uint64_t here = std::min(length, part.length - from);
    const Residency answer =
        part.in_file() ? residency(part.file, part.offset + from, here) : Residency::kResident;
    if (answer != Residency::kResident) return answer;
    length -= here;
    from = 0;
    if (length == 0) break;
  }
  return Residency::kResident;
}

const char* to_string(const std::optional<Residency>& residency) {
  if (!residency) return "-";
  switch (*residency) {
    case Residency::kResident: return "resident";
    case Residency::kAbsent: return "absent";
    case Residency::kUnknown: return "unknown";
  }
  return "";
}

}  // namespace

const struct vdp Delivery::kProcessor = {
    .name = "objmapper", .init = nullptr, .bytes = Delivery::bytes, .fini = nullptr};

Delivery::Delivery(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func,
                   Store& store, std::span<const BodyPart> parts) noexcept
    : wrk_(wrk), priv_(priv), func_(func), store_(store), oc_(oc) {
  // Varnish copies bodies and reads them for itself by the same iterator: `priv` is its own then.
  struct req* req = varnish.THR_GetRequest();
  if (req == nullptr || priv != req->vdc || req->objcore != oc) return;
  vdc_ = req->vdc;
  if (vdc_->magic != VDP_CTX_MAGIC || VTAILQ_EMPTY(&vdc_->vdp)) {
    vdc_ = nullptr;
    return;
  }
  taken_before_ = last_of(vdc_)->bytes_in;
  if (std::none_of(parts.begin(), parts.end(), [](const BodyPart& p) { return p.in_file(); }) ||
      !chosen(req, parts))
    return;
  socket_ = req->sp->fd;
  // As V1D_Deliver set it for what V1B writes.
  deadline_ =
      req->t_prev + (std::isnan(req->sp->send_timeout) ? (*varnish.cache_param)->send_timeout
                                                       : req->sp->send_timeout);
  enter_chain();
}

Delivery::~Delivery() {
  if (vdc_ == nullptr) return;
  VSC_objm& counters = store_.counters();
  const std::uint64_t taken = last_of(vdc_)->bytes_in - taken_before_;
  if (sends_files()) {
    leave_chain();
    count(counters.c_lane_file);
    count(counters.c_lane_file_bytes, taken);
    if (gives_back_) count(counters.c_lane_given_back);
  } else {
    count(counters.c_lane_mapped);
    count(counters.c_lane_mapped_bytes, taken);
  }
  if (store_.is_on_disk(oc_)) count(counters.c_disk_served, taken);
}

// Counts that it was asked for.
bool Delivery::worth_keeping(const struct req* req, std::span<const BodyPart> parts) {
  if (oc_->boc != nullptr || attached_body(oc_) != nullptr || parts.size() != 1) return true;
  const auto ref = file_of(record_of(oc_));
  if (!ref) return true;
  const std::uint64_t begin = first_byte_of(req->resp);
  const auto bytes = static_cast<std::uint64_t>(req->resp_len);
  const auto resident = mostly_resident(parts.front().file, begin, bytes);
  if (!resident) return true;
  resident_ = *resident;
  return store_.popularity().admit(ref->number * 4099 + begin / kPartBytes, bytes, *resident);
}

bool Delivery::chosen(struct req* req, std::span<const BodyPart> parts) {
  lane::Facts facts;
  facts.setting = settings::of(req->vcl, store_).delivery;
  facts.http1 = is_http1(wrk_, req, vdc_);
  facts.plain = is_plain(vdc_);
  facts.length_known = http_GetHdr(req->resp, H_Content_Length, nullptr) != 0 &&
                       http_GetHdr(req->resp, H_Transfer_Encoding, nullptr) == 0 &&
                       req->resp_len >= 0;
  facts.bytes = req->resp_len >= 0 ? static_cast<std::uint64_t>(req->resp_len) : 0;
  lane::Choice choice = lane::choose(facts);
  if (choice.lane == lane::Lane::kDependsOnResidency) {
    facts.residency = residency_of(parts, first_byte_of(req->resp), facts.bytes);
    choice = lane::choose(facts);
  }
  if (choice.lane == lane::Lane::kDependsOnPopularity) {
    facts.worth_keeping = worth_keeping(req, parts);
    choice = lane::choose(facts);
  }
  gives_back_ = choice.lane == lane::Lane::kFileGivenBack;
  bool file = choice.lane == lane::Lane::kFile || gives_back_;
  if (file && window() == nullptr) {
    file = false;
    choice.because = "no address space";
  }
  VSLb(vdc_->vsl, SLT_Debug, "objmapper lane %s: %.*s (%jd bytes, %s)", file ? "file" : "mapped",
       static_cast<int>(choice.because.size()), choice.because.data(),
       static_cast<intmax_t>(req->resp_len), to_string(facts.residency));
  return file;
}

void Delivery::enter_chain() {
  v1b_ = last_of(vdc_);
  entry_.magic = VDP_ENTRY_MAGIC;
  entry_.vdp = &kProcessor;
  entry_.priv = this;
  VTAILQ_INSERT_BEFORE(v1b_, &entry_, list);
  vdc_->nxt = VTAILQ_FIRST(&vdc_->vdp);
}

void Delivery::leave_chain() {
  VTAILQ_REMOVE(&vdc_->vdp, &entry_, list);
  vdc_->nxt = VTAILQ_FIRST(&vdc_->vdp);
}

int Delivery::give(unsigned flags, const FileBytes& bytes) {
  OM_ASSERT(sends_files());
  file_ = bytes.file().raw();
  int answer = 0;
  for (std::uint64_t done = 0; answer == 0 && done < bytes.length();) {
    const std::uint64_t now = std::min(bytes.length() - done, kWindowBytes);
    file_offset_ = bytes.offset() + done;
    done += now;
    const unsigned last = done == bytes.length() ? flags : flags & ~unsigned{OBJ_ITER_END};
    answer = func_(priv_, last, window(), static_cast<ssize_t>(now));
  }
  file_ = -1;
  return answer;
}

// What arrives before V1B: addresses in the window, or memory on its way to it.
int Delivery::bytes(struct vdp_ctx* vdc, enum vdp_action act, void** priv, const void* ptr,
                    ssize_t length) noexcept {
  auto& self = *static_cast<Delivery*>(*priv);
  const std::uintptr_t ahead =
      reinterpret_cast<std::uintptr_t>(ptr) - reinterpret_cast<std::uintptr_t>(window());
  if (self.file_ < 0 || ptr == nullptr || ahead >= kWindowBytes)
    return VDP_bytes(vdc, act, ptr, length);
  if (length > 0)
    if (const int answer =
            self.send(vdc, self.file_offset_ + ahead, static_cast<std::uint64_t>(length));
        answer != 0)
      return answer;
  return act == VDP_END ? VDP_bytes(vdc, VDP_END, nullptr, 0) : 0;
}

void Delivery::give_back(std::uint64_t from, std::uint64_t to) {
  if (gives_back_) store_.drop_behind().sent(BorrowedFd(file_), from, to - from);
}

// Says and does what V1L_Flush does where writev would not go on.
int Delivery::send(struct vdp_ctx* vdc, std::uint64_t offset, std::uint64_t length) {
  // The headers, and memory that came before.
  if (varnish.V1L_Flush(wrk_) != SC_NULL) return -1;
  if (!resident_) begin_reading(BorrowedFd(file_), offset, length);
  auto at = static_cast<off_t>(offset);
  std::uint64_t left = length;
  std::uint64_t held = offset;  // from here on it is to be given back yet
  std::uint64_t piece = kPieceBytes;
  ssize_t sent = 0;
  int answer = 0;
  double now = VTIM_real();
  while (left > 0) {
    const auto shown = static_cast<ssize_t>(left);
    if (now > deadline_) {
      VSLb(vdc->vsl, SLT_Debug, "Hit total send timeout, wrote = %zd/%zd; not retrying", sent,
           shown);
      failed(SC_TX_ERROR);
      answer = -1;
      break;
    }
    sent = ::sendfile(socket_, file_, &at, std::min(left, piece));
    const int error = errno;
    const double then = now;
    now = VTIM_real();
    piece = now - then > kSlowSeconds ? kPieceBytesSlow : kPieceBytes;
    if (sent > 0) {
      left -= static_cast<std::uint64_t>(sent);
      const std::uint64_t end = (offset + length - left) / kFolioBytesMax * kFolioBytesMax;
      if (end >= held + kPartBytes) {
        give_back(held, end);
        held = end;
      }
      continue;
    }
    if (sent < 0 && error == EINTR) continue;
    if (sent < 0 && error == EAGAIN) {
      VSLb(vdc->vsl, SLT_Debug, "Hit idle send timeout, wrote = %zd/%zd; retrying", sent, shown);
      continue;
    }
    answer = -1;
    if (sent == 0 || !file_is_readable(static_cast<std::uint64_t>(at))) {
      file_failed_ = true;
      VSLb(vdc->vsl, SLT_Error, "objmapper: the body cannot be read from its file: %s",
           sent == 0 ? "it ends early" : VAS_errtxt(error));
      break;
    }
    VSLb(vdc->vsl, SLT_Debug, "Write error, retval = %zd, len = %zd, errno = %s", sent, shown,
         VAS_errtxt(error));
    failed(error == EPIPE ? SC_REM_CLOSE : SC_TX_ERROR);
    break;
  }
  give_back(held, offset + length - left);
  // V1B did not see them, but it is its figure that ReqAcct and VdpAcct show.
  v1b_->bytes_in += length - left;
  v1b_->calls++;
  return answer;
}

// sendfile does not say which of the two failed.
bool Delivery::file_is_readable(std::uint64_t offset) const {
  std::byte byte{};
  return ::pread(file_, &byte, 1, static_cast<off_t>(offset)) == 1;
}

void Delivery::failed(stream_close_t why) {
  auto* v1l = reinterpret_cast<struct v1l*>(wrk_->v1l);
  if (v1l->werr == SC_NULL) v1l->werr = why;
}

}  // namespace om::vmod
