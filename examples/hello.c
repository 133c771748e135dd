/* Stores an object, reads it back, removes it. Build it against an installed objmapper:
 *
 *   cc hello.c $(pkg-config --cflags --libs objmapper) -o hello
 *   ./hello [SOCKET]
 */
#include <errno.h>
#include <objmapper/objmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char* doing) {
  fprintf(stderr, "hello: %s: %s\n", doing, om_error());
  return EXIT_FAILURE;
}

int main(int argc, char** argv) {
  static const char kKey[] = "http://example.org/hello";
  static const char kBody[] = "hello, world";
  om_client* client = NULL;
  om_lease* lease = NULL;
  om_info info;
  char body[64];
  int64_t length;

  if (om_client_open(argc > 1 ? argv[1] : NULL, 1000, "hello", &client) != 0)
    return fail("connect");
  if (om_put(client, kKey, NULL, kBody, strlen(kBody)) != 0) return fail("put");
  if (om_get(client, kKey, &lease) != 0) return fail("get");
  if (om_delete(client, kKey) != 0) return fail("delete");
  if (om_stat(client, kKey, &info) != -ENOENT) return fail("stat of what was deleted");
  /* The lease keeps the bytes, although the object is gone. */
  length = om_lease_read(lease, 0, body, sizeof body);
  if (length < 0) return fail("read");
  printf("%.*s\n", (int)length, body);
  om_lease_close(lease);
  om_client_close(client);
  return EXIT_SUCCESS;
}
