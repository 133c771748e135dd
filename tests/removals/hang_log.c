/* For LD_PRELOAD: pwrite(2) to a log of removals that does not return while the file named by
 * OM_TEST_HANG is there, as on a disk that is busy. A file of that name and ".reached" says that
 * somebody waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../support/preload.h"

ssize_t pwrite(int fd, const void* bytes, size_t length, off_t at) {
  const char* const hang = getenv("OM_TEST_HANG");
  while (hang != NULL && access(hang, F_OK) == 0 && path_has(fd, "/removals-")) {
    char reached[4096];
    (void)snprintf(reached, sizeof reached, "%s.reached", hang);
    const int made = open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (made >= 0) (void)close(made);
    (void)usleep(1000);
  }
  return syscall(SYS_pwrite64, fd, bytes, length, at);
}
