/* A CGI program that hands its body over to the cache instead of sending it (docs/handoff.md): it
 * writes it into objmapper and answers with the key. Where that is not allowed, or does not work,
 * it sends the body.
 *
 *   cc handoff.c $(pkg-config --cflags --libs objmapper) -o handoff
 *   GATEWAY_INTERFACE=CGI/1.1 QUERY_STRING=3 HTTP_X_OBJMAPPER_HANDOFF=cgi:a: ./handoff
 *
 * The body is a report of as many lines as the query says. OBJMAPPER_SOCKET names the daemon's
 * socket where it is not the usual one, HANDOFF_PREFIX what keys must begin with that we are
 * willing to write.
 */
#include <errno.h>
#include <inttypes.h>
#include <objmapper/objmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kLineBytes = 16, kAnnounceLines = 65536 };

/* As printf("%015d\n"). */
static void make_line(char line[kLineBytes + 1], uint64_t number) {
  snprintf(line, kLineBytes + 1, "%015" PRIu64 "\n", number);
}

/* Writes the whole body; followers have the first megabyte before the second is made. */
static int fill(om_writer* writer, uint64_t lines) {
  char line[kLineBytes + 1];
  static char piece[4096 * kLineBytes];
  size_t used = 0;
  int status = 0;
  for (uint64_t i = 0; i < lines && status == 0; ++i) {
    make_line(line, i);
    memcpy(piece + used, line, kLineBytes);
    used += kLineBytes;
    if (used == sizeof piece || i + 1 == lines) {
      status = om_writer_write(writer, piece, used);
      used = 0;
    }
    if (status == 0 && (i + 1) % kAnnounceLines == 0) status = om_writer_announce(writer);
  }
  return status;
}

/* 0: the object is there, or on its way. Otherwise nothing has happened, and the body is still to
 * be sent. */
static int hand_over(const char* key, uint64_t lines) {
  const char* socket = getenv("OBJMAPPER_SOCKET");
  om_client* client = NULL;
  om_lease* lease = NULL;
  om_writer* writer = NULL;
  om_follower* follower = NULL;
  om_put_options options = {0};
  int status = om_client_open(socket, 200, "handoff example", &client);
  if (status != 0) return status;
  options.length = lines * kLineBytes;
  options.ttl_ms = 5 * 60 * 1000; /* what the cache holds stays longer */
  options.ephemeral = 1;
  status = om_reserve_or_follow(client, key, &options, &lease, &writer, &follower);
  /* The key says all that the body depends on: what is there, or what somebody else is writing, is
   * what we would write. */
  om_lease_close(lease);
  om_follower_close(follower);
  if (status == 0 && writer != NULL) {
    status = fill(writer, lines);
    if (status == 0)
      status = om_writer_commit(writer, NULL);
    else
      om_writer_abort(writer);
  }
  om_client_close(client);
  return status;
}

int main(void) {
  const char* query = getenv("QUERY_STRING");
  const char* allowed = getenv("HTTP_X_OBJMAPPER_HANDOFF");
  const char* ours = getenv("HANDOFF_PREFIX");
  const uint64_t lines = query != NULL ? strtoull(query, NULL, 10) : 0;
  char key[1024];
  char line[kLineBytes + 1];
  int fits;

  if (lines > UINT64_C(1) << 30) {
    printf("Status: 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nA shorter one, please.\n");
    return EXIT_SUCCESS;
  }
  printf("Content-Type: text/plain\r\nCache-Control: max-age=3600\r\n");
  /* "no", or no header at all, is not what our keys begin with. An empty object cannot be declared
   * here (a length of 0 means "not known"), and is not worth it. */
  if (ours == NULL) ours = "cgi:";
  if (lines > 0 && allowed != NULL && strncmp(allowed, ours, strlen(ours)) == 0) {
    fits = snprintf(key, sizeof key, "%sreport#%" PRIu64, allowed, lines);
    if (fits > 0 && (size_t)fits < sizeof key && hand_over(key, lines) == 0) {
      printf("X-Objmapper-Object: %s\r\nX-Objmapper-Length: %" PRIu64 "\r\n", key,
             lines * kLineBytes);
      printf("Content-Length: 0\r\n\r\n");
      return EXIT_SUCCESS;
    }
  }
  printf("Content-Length: %" PRIu64 "\r\n\r\n", lines * kLineBytes);
  for (uint64_t i = 0; i < lines; ++i) {
    make_line(line, i);
    fwrite(line, 1, kLineBytes, stdout);
  }
  return EXIT_SUCCESS;
}
