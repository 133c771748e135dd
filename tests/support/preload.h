/* For what is put before the C library with LD_PRELOAD. */
#pragma once

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Whether the path of an open file has `part` in it. */
static inline int path_has(int fd, const char* part) {
  char link[64];
  char path[4096];
  (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return strstr(path, part) != NULL;
}
