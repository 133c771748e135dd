/* For LD_PRELOAD: pwrite(2) to a journal of the catalog fails for want of space while the file
 * named by OM_TEST_FULL is there. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../support/preload.h"

ssize_t pwrite(int fd, const void* bytes, size_t length, off_t at) {
  const char* const full = getenv("OM_TEST_FULL");
  if (full != NULL && access(full, F_OK) == 0 && path_has(fd, "/catalog/journal/journal-")) {
    errno = ENOSPC;
    return -1;
  }
  return syscall(SYS_pwrite64, fd, bytes, length, at);
}
