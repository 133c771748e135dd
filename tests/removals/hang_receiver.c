/* For LD_PRELOAD: the receiver of removals of a varnishd (vmod/removal_receiver.cc), which has
 * applied all that there is, does not come back from its poll(2) while the file named by
 * OM_TEST_HANG is there: the other threads go on. A file of that name and ".reached" says that it
 * waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static int is_receiver(void) {
  char name[16];
  return prctl(PR_GET_NAME, name) == 0 && strcmp(name, "objmapper-remov") == 0;
}

int poll(struct pollfd* fds, nfds_t count, int wait_ms) {
  const char* const hang = getenv("OM_TEST_HANG");
  while (hang != NULL && is_receiver() && access(hang, F_OK) == 0) {
    char reached[4096];
    (void)snprintf(reached, sizeof reached, "%s.reached", hang);
    const int made = open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (made >= 0) (void)close(made);
    (void)usleep(1000);
  }
  const struct timespec wait = {wait_ms / 1000, wait_ms % 1000 * 1000000L};
  return ppoll(fds, count, wait_ms < 0 ? NULL : &wait, NULL);
}
