#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include "base/limits.h"
#include "posix/drop_behind.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/memfd.h"
#include "posix/range_lock.h"
#include "posix/read_ahead.h"
#include "posix/residency.h"
#include "posix/testing.h"
#include "posix/unix_socket.h"

namespace om {
namespace {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "om-posix-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A file of that many bytes, none of them in the page cache where that can be had.
UniqueFd written_out(const std::string& path, std::size_t bytes) {
  UniqueFd file = UniqueFd::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::string block(bytes, 'x');
  EXPECT_EQ(::write(file.raw(), block.data(), bytes), static_cast<ssize_t>(bytes));
  EXPECT_EQ(::fdatasync(file.raw()), 0);
  EXPECT_EQ(::posix_fadvise(file.raw(), 0, 0, POSIX_FADV_DONTNEED), 0);
  return file;
}

std::size_t open_descriptors() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++n;
  return n;
}

TEST(Packet, BringsItsDescriptorsInOrder) {
  auto [left, right] = *seqpacket_pair();
  const auto one = *make_memfd("one", 11);
  const auto two = *make_memfd("two", 22);
  const std::array descriptors = {one.borrow(), two.borrow()};
  ASSERT_TRUE(*send_packet(left.borrow(), bytes_of("hello"), descriptors));
  std::array<std::byte, 64> buffer{};
  const auto packet = receive_packet(right.borrow(), buffer);
  ASSERT_TRUE(packet);
  ASSERT_EQ((*packet)->bytes, 5U);
  ASSERT_EQ((*packet)->descriptors.size(), 2U);
  EXPECT_EQ(*file_size((*packet)->descriptors[0].borrow()), 11U);
  EXPECT_EQ(*file_size((*packet)->descriptors[1].borrow()), 22U);
  EXPECT_NE(::fcntl((*packet)->descriptors[0].raw(), F_GETFD) & FD_CLOEXEC, 0);
}

// CMSG_SPACE rounds up, so that an odd and an even surplus take different ways through the kernel.
TEST(Packet, ClosesDescriptorsItHasNoRoomFor) {
  for (const std::size_t surplus : {1U, 2U, 3U}) {
    auto [left, right] = *seqpacket_pair();
    const auto file = *make_memfd("many", 1);
    const std::size_t before = open_descriptors();
    std::vector<int> raw(kFdsPerMessageMax + surplus, file.raw());
    std::vector<char> control(CMSG_SPACE(raw.size() * sizeof(int)));
    std::byte byte{};
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(raw.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), raw.data(), raw.size() * sizeof(int));
    ASSERT_EQ(::sendmsg(left.raw(), &message, 0), 1);
    std::array<std::byte, 8> buffer{};
    const auto packet = receive_packet(right.borrow(), buffer);
    ASSERT_FALSE(packet);
    EXPECT_EQ(packet.error().code, Errc::kMalformed);
    EXPECT_EQ(open_descriptors(), before);
  }
}

TEST(Packet, TooLongForTheBufferIsMalformed) {
  auto [left, right] = *seqpacket_pair();
  ASSERT_TRUE(*send_packet(left.borrow(), bytes_of("0123456789"), {}));
  std::array<std::byte, 4> buffer{};
  const auto packet = receive_packet(right.borrow(), buffer);
  ASSERT_FALSE(packet);
  EXPECT_EQ(packet.error().code, Errc::kMalformed);
}

TEST(Packet, OfZeroBytesMeansClosed) {
  auto [left, right] = *seqpacket_pair();
  left.reset();
  std::array<std::byte, 4> buffer{};
  EXPECT_EQ((*receive_packet(right.borrow(), buffer))->bytes, 0U);
  EXPECT_EQ(send_packet(right.borrow(), bytes_of("x"), {}).error().code, Errc::kUnavailable);
}

TEST(Listen, ReplacesAStaleSocketButNotALiveOne) {
  const Folder folder;
  const std::string path = folder / "s";
  {
    const auto first = listen_seqpacket(path, 0600, 8);
    ASSERT_TRUE(first);
    EXPECT_EQ(listen_seqpacket(path, 0600, 8).error().code, Errc::kBusy);
  }
  ASSERT_TRUE(std::filesystem::exists(path));
  const auto second = listen_seqpacket(path, 0600, 8);
  ASSERT_TRUE(second);
  const auto client = connect_seqpacket(path, std::chrono::milliseconds(500));
  ASSERT_TRUE(client);
  const auto server = accept_connection(second->borrow());
  ASSERT_TRUE(server && *server);
  EXPECT_EQ(peer_credentials((*server)->borrow())->pid, ::getpid());
  EXPECT_EQ(peer_groups((*server)->borrow())->front(), ::getgid());
}

TEST(Listen, LeavesASocketOfAnotherKindAlone) {
  const Folder folder;
  const std::string path = folder / "s";
  auto stream = UniqueFd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof address.sun_path);
  std::memcpy(static_cast<char*>(address.sun_path), path.data(), path.size());
  ASSERT_EQ(::bind(stream.raw(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(stream.raw(), 1), 0);
  EXPECT_EQ(listen_seqpacket(path, 0600, 8).error().code, Errc::kBusy);
  EXPECT_EQ(remove_stale_socket(path).error().code, Errc::kBusy);
  EXPECT_TRUE(std::filesystem::exists(path));
  stream.reset();
  EXPECT_TRUE(listen_seqpacket(path, 0600, 8));
  EXPECT_TRUE(remove_stale_socket(path));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(remove_stale_socket(path));
}

TEST(Listen, IsForOneOfThoseWhoComeAtOnce) {
  const Folder folder;
  const std::string path = folder / "s";
  constexpr std::size_t kThreads = 3;
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(round);
    std::array<std::optional<Result<UniqueFd>>, kThreads> sockets;
    std::atomic<std::size_t> ready{0};
    std::vector<std::thread> threads;
    threads.reserve(kThreads);
    for (auto& socket : sockets)
      threads.emplace_back([&] {
        ++ready;
        while (ready < kThreads) std::this_thread::yield();
        socket.emplace(listen_seqpacket(path, 0600, 8));
      });
    for (std::thread& thread : threads) thread.join();
    int listening = 0;
    for (const auto& socket : sockets) {
      if (*socket)
        ++listening;
      else
        EXPECT_EQ((*socket).error().code, Errc::kBusy) << describe((*socket).error());
    }
    EXPECT_EQ(listening, 1);
    EXPECT_TRUE(connect_seqpacket(path, std::chrono::milliseconds(500)));
  }
}

TEST(Listen, ASocketIsRemovedByWhoMadeItOnly) {
  const Folder folder;
  const std::string path = folder / "s";
  const auto first = listen_seqpacket(path, 0600, 8);
  ASSERT_TRUE(first);
  const auto of_first = file_id(path);
  ASSERT_TRUE(of_first);
  ASSERT_TRUE(std::filesystem::remove(path));
  remove_own_socket(path, of_first);
  const auto second = listen_seqpacket(path, 0600, 8);
  ASSERT_TRUE(second);
  remove_own_socket(path, of_first);
  remove_own_socket(path, std::nullopt);
  EXPECT_TRUE(std::filesystem::exists(path));
  remove_own_socket(path, file_id(path));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(file_id(path));
}

TEST(Connect, HasATimeLimitWhateverSignalsCome) {
  const Folder folder;
  const std::string path = folder / "s";
  const auto listener = listen_seqpacket(path, 0600, 0);
  ASSERT_TRUE(listener);
  std::vector<UniqueFd> queue;
  while (auto one = connect_seqpacket(path, std::chrono::milliseconds(50))) {
    queue.push_back(*std::move(one));
    ASSERT_LT(queue.size(), 10U);
  }
  const SignalStorm storm;
  const auto begun = std::chrono::steady_clock::now();
  const auto late = connect_seqpacket(path, std::chrono::milliseconds(200));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(3));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::kUnavailable);
  EXPECT_EQ(late.error().sys_errno, EAGAIN);
}

TEST(Listen, SaysWhatIsWrongWithAPath) {
  EXPECT_EQ(listen_seqpacket(std::string(200, 'x'), 0600, 8).error().code, Errc::kMalformed);
  EXPECT_EQ(listen_seqpacket("", 0600, 8).error().code, Errc::kMalformed);
  const Folder folder;
  ASSERT_TRUE(open_file(folder / "file", O_CREAT | O_WRONLY));
  EXPECT_EQ(listen_seqpacket(folder / "file", 0600, 8).error().code, Errc::kExists);
  EXPECT_EQ(connect_seqpacket(folder / "none", std::chrono::milliseconds(100)).error().code,
            Errc::kUnavailable);
}

TEST(File, ReadsAndWritesWhole) {
  const Folder folder;
  const auto file = open_file(folder / "f", O_CREAT | O_RDWR);
  ASSERT_TRUE(file);
  ASSERT_TRUE(write_exactly(file->borrow(), 3, bytes_of("abc")));
  std::array<std::byte, 3> back{};
  ASSERT_TRUE(read_exactly(file->borrow(), 3, back));
  EXPECT_EQ(std::memcmp(back.data(), "abc", 3), 0);
  EXPECT_EQ(read_exactly(file->borrow(), 4, back).error().code, Errc::kCorrupt);
  const auto copy = open_file(folder / "g", O_CREAT | O_RDWR);
  ASSERT_TRUE(copy_bytes(file->borrow(), 3, copy->borrow(), 0, 3));
  ASSERT_TRUE(read_exactly(copy->borrow(), 0, back));
  EXPECT_EQ(std::memcmp(back.data(), "abc", 3), 0);
}

TEST(File, CopySaysWhichSideFailed) {
  const auto short_one = *make_memfd("short", 10);
  const auto other = *make_memfd("other", 20);
  bool source_failed = false;
  EXPECT_FALSE(copy_bytes(short_one.borrow(), 0, other.borrow(), 0, 20, &source_failed));
  EXPECT_TRUE(source_failed);
  const auto unwritable = *reopen(other.borrow(), O_RDONLY);
  source_failed = false;
  EXPECT_FALSE(copy_bytes(short_one.borrow(), 0, unwritable.borrow(), 0, 10, &source_failed));
  EXPECT_FALSE(source_failed);
}

TEST(File, ReaderOfAReopenedFileCannotWrite) {
  const auto memfd = *make_memfd("m", 4096);
  const auto reader = reopen(memfd.borrow(), O_RDONLY);
  ASSERT_TRUE(reader);
  EXPECT_FALSE(write_exactly(reader->borrow(), 0, bytes_of("x")));
  EXPECT_FALSE(Mapping::of(reader->borrow(), 0, 4096, Access::kReadWrite));
  struct stat status {};
  ASSERT_EQ(::fstat(memfd.raw(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST(File, ADirectoryInAnotherIsNoLink) {
  const Folder folder;
  const auto outer = *open_directory(folder / "outer");
  EXPECT_TRUE(open_directory_at(outer.borrow(), "made"));
  EXPECT_TRUE(open_directory_at(outer.borrow(), "made"));
  ASSERT_EQ(::symlinkat("made", outer.raw(), "link"), 0);
  EXPECT_FALSE(open_directory_at(outer.borrow(), "link"));
  ASSERT_TRUE(open_at(outer.borrow(), "file", O_CREAT | O_RDWR));
  EXPECT_FALSE(open_directory_at(outer.borrow(), "file"));
}

TEST(File, ATreeIsRemovedAndWhatItPointsToIsNot) {
  const Folder folder;
  std::filesystem::create_directories(folder / "other/dir");
  std::filesystem::create_directories(folder / "tree/a/b");
  ASSERT_TRUE(open_file(folder / "other/dir/file", O_CREAT | O_RDWR));
  ASSERT_TRUE(open_file(folder / "tree/a/b/file", O_CREAT | O_RDWR));
  std::filesystem::create_directory_symlink(folder / "other/dir", folder / "tree/a/link");
  std::filesystem::create_directory_symlink(folder / "other", folder / "top");
  const auto directory = *open_directory(folder / "");
  ASSERT_TRUE(remove_tree(directory.borrow(), "tree"));
  ASSERT_TRUE(remove_tree(directory.borrow(), "tree"));
  ASSERT_TRUE(remove_tree(directory.borrow(), "top"));
  EXPECT_EQ(*list_directory(directory.borrow()), std::vector<std::string>{"other"});
  EXPECT_TRUE(std::filesystem::exists(folder / "other/dir/file"));
}

TEST(File, IsReadToItsEndAlsoWhereThatIsAPipe) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const auto reader = UniqueFd::adopt(ends[0]);
  auto writer = UniqueFd::adopt(ends[1]);
  ASSERT_EQ(::write(writer.raw(), "hello", 5), 5);
  EXPECT_EQ(*read_to_end(reader.borrow(), 3), "hel");
  writer.reset();
  EXPECT_EQ(*read_to_end(reader.borrow(), 100), "lo");
  EXPECT_EQ(*read_to_end(reader.borrow(), 100), "");
  const Folder folder;
  const auto file = written_out(folder / "f", 100'000);
  ASSERT_EQ(::lseek(file.raw(), 0, SEEK_SET), 0);
  EXPECT_EQ(*read_to_end(file.borrow(), 1U << 20U), std::string(100'000, 'x'));
  EXPECT_FALSE(read_to_end(open_directory(folder / "d")->borrow(), 10));
}

TEST(File, SubdirectoriesAreSpreadWhereTheFileSystemCan) {
  const Folder folder;
  auto spread = open_directory(folder / "spread");
  ASSERT_TRUE(spread);
  spread_subdirectories(spread->borrow());
  spread_subdirectories(spread->borrow());
  auto below = open_directory(folder / "spread/below");
  ASSERT_TRUE(below);
  struct statfs status {};
  ASSERT_EQ(::fstatfs(spread->raw(), &status), 0);
  if (status.f_type != EXT4_SUPER_MAGIC) return;  // no harm was done, which is all there is to see
  int flags = 0;
  ASSERT_EQ(::ioctl(spread->raw(), FS_IOC_GETFLAGS, &flags), 0);
  EXPECT_NE(flags & FS_TOPDIR_FL, 0);
  ASSERT_EQ(::ioctl(below->raw(), FS_IOC_GETFLAGS, &flags), 0);
  EXPECT_EQ(flags & FS_TOPDIR_FL, 0) << "what lies in one subdirectory lies together";
}

TEST(Memfd, CannotBeShortenedOnceSealed) {
  const auto memfd = *make_memfd("m", 4096);
  ASSERT_TRUE(seal_length(memfd.borrow()));
  EXPECT_FALSE(resize(memfd.borrow(), 0));
  EXPECT_FALSE(resize(memfd.borrow(), 8192));
}

TEST(RangeLock, EndsWithTheLastDescriptorOfItsDescription) {
  const Folder folder;
  const std::string path = folder / "locks";
  auto holder = *open_file(path, O_CREAT | O_RDWR);
  const auto watcher = *open_file(path, O_RDWR);
  ASSERT_TRUE(*lock_range_shared(holder.borrow(), 100, 1));
  EXPECT_TRUE(*range_is_locked(watcher.borrow(), 100, 1));
  EXPECT_FALSE(*range_is_locked(watcher.borrow(), 101, 1));
  EXPECT_FALSE(*lock_range_exclusive(watcher.borrow(), 100, 1));
  auto passed_on = *duplicate(holder.borrow());
  holder.reset();
  EXPECT_TRUE(*range_is_locked(watcher.borrow(), 100, 1));
  passed_on.reset();
  EXPECT_FALSE(*range_is_locked(watcher.borrow(), 100, 1));
}

// Each file is asked about once while something of it is absent: the question makes the kernel
// read.
TEST(Residency, SaysWhatIsInThePageCache) {
  const Folder folder;
  constexpr std::size_t kBytes = 8 * 1024 * 1024;
  if (residency(written_out(folder / "cold", kBytes).borrow(), 0, kBytes) != Residency::kAbsent)
    GTEST_SKIP() << "this file system keeps it, or does not say";
  const UniqueFd file = written_out(folder / "body", kBytes);
  std::string block(kBytes, 0);
  // The end alone is not all of it.
  ASSERT_EQ(::pread(file.raw(), block.data(), 4096, kBytes - 4096), 4096);
  EXPECT_EQ(residency(file.borrow(), 0, kBytes), Residency::kAbsent);
  ASSERT_EQ(::pread(file.raw(), block.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  EXPECT_EQ(residency(file.borrow(), 0, kBytes), Residency::kResident);
  EXPECT_EQ(residency(file.borrow(), 4096, 10), Residency::kResident);
}

TEST(Residency, OfMostOfAFileIsFoundWithoutReadingAnything) {
  const Folder folder;
  constexpr std::size_t kBytes = 8 * 1024 * 1024;
  const UniqueFd file = written_out(folder / "body", kBytes);
  const auto cold = mostly_resident(file.borrow(), 0, kBytes);
  if (!cold || *cold) GTEST_SKIP() << "this kernel does not say, or the file system keeps it";
  EXPECT_EQ(mostly_resident(file.borrow(), 0, kBytes), false);
  std::string block(kBytes, 0);
  ASSERT_EQ(::pread(file.raw(), block.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  EXPECT_EQ(mostly_resident(file.borrow(), 0, kBytes), true);
  EXPECT_EQ(mostly_resident(file.borrow(), 4096, 10), true);
  EXPECT_EQ(mostly_resident(BorrowedFd(-1), 0, 10), std::nullopt);
}

TEST(Residency, OfMostOfAFileOfWhichHalfWasTakenAwayIsWhatMostOfItIs) {
  const Folder folder;
  constexpr std::size_t kBytes = 8 * 1024 * 1024;
  const auto with = [&](const char* name, std::size_t from, std::size_t to) {
    UniqueFd file = written_out(folder / name, kBytes);
    std::string block(65536, 0);
    for (std::size_t at = from; at < to; at += block.size())
      EXPECT_EQ(::pread(file.raw(), block.data(), block.size(), static_cast<off_t>(at)), 65536);
    return file;
  };
  const UniqueFd end = with("end", kBytes / 4, kBytes);
  const auto cold = mostly_resident(with("cold", 0, 0).borrow(), 0, kBytes);
  if (!cold || *cold) GTEST_SKIP() << "this kernel does not say, or the file system keeps it";
  // The place near the begin is not there, the one in the middle is, and all eight decide.
  EXPECT_EQ(mostly_resident(end.borrow(), 0, kBytes), true);
  EXPECT_EQ(mostly_resident(with("middle", kBytes / 2, kBytes / 2 + 65536).borrow(), 0, kBytes),
            false);
}

TEST(Residency, OfAFileThatIsMemoryIsNoQuestion) {
  const auto memfd = *make_memfd("m", 65536);
  EXPECT_EQ(residency(memfd.borrow(), 0, 65536), Residency::kResident);
}

TEST(ReadAhead, BeginsWithFewPagesOfALongFile) {
  const Folder folder;
  constexpr std::size_t kBytes = 1024 * 1024;
  const UniqueFd file = written_out(folder / "body", kBytes);
  const auto cold = mostly_resident(file.borrow(), 0, kBytes);
  if (!cold || *cold) GTEST_SKIP() << "this kernel does not say, or the file system keeps it";
  // Not worth it: nothing is read.
  begin_reading(file.borrow(), 0, 65536);
  begin_reading(file.borrow(), 4096, kBytes - 4096);
  EXPECT_EQ(mostly_resident(file.borrow(), 0, 1), false);
  begin_reading(file.borrow(), 0, kBytes);
  EXPECT_EQ(mostly_resident(file.borrow(), 0, 1), true);
  EXPECT_EQ(mostly_resident(file.borrow(), 131072, 1), false);
  std::string body(kBytes, 0);
  ASSERT_EQ(::pread(file.raw(), body.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  EXPECT_EQ(body, std::string(kBytes, 'x'));
}

TEST(ReadAhead, ToAFileThatCannotBeReadNothingHappens) {
  begin_reading(BorrowedFd(-1), 0, 1 << 20);
}

TEST(DropBehind, TakesOutOfThePageCacheWhatWasSentSomeTimeAgo) {
  const Folder folder;
  constexpr std::size_t kBytes = 8 * 1024 * 1024;
  const auto read = [&](const UniqueFd& file) {
    std::string block(kBytes, 0);
    ASSERT_EQ(::pread(file.raw(), block.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  };
  UniqueFd one = written_out(folder / "one", kBytes);
  const UniqueFd two = written_out(folder / "two", kBytes);
  if (residency(one.borrow(), 0, kBytes) != Residency::kAbsent)
    GTEST_SKIP() << "this file system keeps it, or does not say";
  DropBehind behind;
  read(one);
  read(two);
  behind.sent(one.borrow(), 0, kBytes);
  EXPECT_EQ(residency(one.borrow(), 0, kBytes), Residency::kResident);
  one.reset();
  for (std::uint64_t sent = 0; sent <= DropBehind::kBehindBytes; sent += kBytes)
    behind.sent(two.borrow(), 0, kBytes);
  one = *open_file(folder / "one", O_RDONLY);
  EXPECT_EQ(residency(one.borrow(), 0, kBytes), Residency::kAbsent);
}

TEST(DropBehind, HasSoManyDescriptorsAndNoMore) {
  const Folder folder;
  const UniqueFd file = written_out(folder / "body", 4096);
  const auto open = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  DropBehind behind;
  const auto before = open();
  for (std::size_t i = 0; i < 3 * DropBehind::kFilesMost; ++i) behind.sent(file.borrow(), 0, 4096);
  EXPECT_EQ(open() - before, static_cast<std::ptrdiff_t>(DropBehind::kFilesMost));
  behind.sent(BorrowedFd(-1), 0, 4096);
}

TEST(Residency, IsUnknownWhereItCannotBeAsked) {
  EXPECT_EQ(residency(BorrowedFd(-1), 0, 4096), Residency::kUnknown);
}

}  // namespace
}  // namespace om
