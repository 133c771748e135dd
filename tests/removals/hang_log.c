/* For LD_PRELOAD: pwrite(2) to a log of removals that does not return while the file named by
 * OM_TEST_HANG is there, as on a disk that is busy. A file of that name and ".reached" says that
 * somebody waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_removal_log(int fd) {
  char link[64];
  char path[4096];
  (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return strstr(path, "/removals-") != NULL;
}

ssize_t pwrite(int fd, const void* bytes, size_t length, off_t at) {
  const char* const hang = getenv("OM_TEST_HANG");
  while (hang != NULL && access(hang, F_OK) == 0 && is_removal_log(fd)) {
    char reached[4096];
    (void)snprintf(reached, sizeof reached, "%s.reached", hang);
    const int made = open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (made >= 0) (void)close(made);
    (void)usleep(1000);
  }
  return syscall(SYS_pwrite64, fd, bytes, length, at);
}
