/* For LD_PRELOAD: the next test of a text that begins with OM_TEST_HANG_TEXT against a regular
 * expression, which is what a lookup does with a ban on a header of the request, does not come back
 * while the file named by OM_TEST_HANG is there. A file of that name and ".reached" says that it
 * waits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int match_fn(const void*, const unsigned char*, size_t, size_t, uint32_t, void*, void*);

int pcre2_match_8(const void* code, const unsigned char* subject, size_t length, size_t start,
                  uint32_t options, void* found, void* context) {
  match_fn* const next = (match_fn*)dlsym(RTLD_NEXT, "pcre2_match_8");
  const int result = next(code, subject, length, start, options, found, context);
  const char* const hang = getenv("OM_TEST_HANG");
  const char* const text = getenv("OM_TEST_HANG_TEXT");
  if (hang == NULL || text == NULL || subject == NULL || access(hang, F_OK) != 0) return result;
  if (strncmp((const char*)subject, text, strlen(text)) != 0) return result;
  char reached[4096];
  (void)snprintf(reached, sizeof reached, "%s.reached", hang);
  const int made = open(reached, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (made < 0) return result; /* one waits already */
  (void)close(made);
  while (access(hang, F_OK) == 0) (void)usleep(1000);
  return result;
}
