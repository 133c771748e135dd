/* For LD_PRELOAD: fdatasync(2) that does not return while the file named by OM_TEST_HANG is there,
 * as on a disk that has stopped answering. A file of that name and ".reached" says that somebody
 * waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int fd) {
  const char* const hang = getenv("OM_TEST_HANG");
  while (hang != NULL && access(hang, F_OK) == 0) {
    char reached[4096];
    (void)snprintf(reached, sizeof reached, "%s.reached", hang);
    const int made = open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (made >= 0) (void)close(made);
    (void)usleep(1000);
  }
  return (int)syscall(SYS_fdatasync, fd);
}
