/* The C interface to objmapperd, over libobjmapper.
 *
 * Functions that can fail return 0 or -errno. Those that make something put it into their last
 * argument and set that to NULL when they fail. What went wrong in words: om_error(), for the last
 * failed call of this thread.
 *
 * The errors: ENOENT no such object, EBUSY somebody else writes or holds it, ENOSPC no space,
 * EDQUOT this program's account is used up, EINVAL an argument or a message that is none, EACCES
 * not allowed, ENOTCONN the daemon is gone or not there, ETIMEDOUT no answer in time, EBADMSG bytes
 * that do not check out, EPROTONOSUPPORT another protocol; else that of a system call.
 *
 * A client may be used by several threads at once; a writer, a lease and a follower by one at a
 * time. They may be closed after their client.
 */
#ifndef OBJMAPPER_H
#define OBJMAPPER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" { /* NOLINTBEGIN(*-use-using,*-identifier-naming): this is C */
#endif

typedef struct om_client om_client;
typedef struct om_lease om_lease;
typedef struct om_writer om_writer;
typedef struct om_follower om_follower;

#define OM_DEFAULT_SOCKET "/run/objmapper/objmapper.sock"

/* Never NULL; valid until this thread's next call. */
const char* om_error(void);

/* socket: NULL for the usual one. timeout_ms: for connecting and for each later call; 0: 1000.
 * name: of the program, for people; may be NULL. */
int om_client_open(const char* socket, unsigned timeout_ms, const char* name, om_client** client);
void om_client_close(om_client* client); /* NULL is fine */
/* 1 when the daemon has hung up: close it and open another. */
int om_client_closed(const om_client* client);
/* For poll(2). */
int om_client_fd(const om_client* client);

/* --- reading */

typedef struct om_slice {
  int fd; /* the lease's or writer's: do not close it */
  uint64_t offset;
  uint64_t length;
} om_slice;

typedef struct om_info {
  uint64_t object_id;
  uint64_t length;
  uint64_t created_ns; /* since 1970 */
  uint64_t expires_ns; /* 0: never */
  int ephemeral;
  int on_disk;
} om_info;

/* -ENOENT: no such object. The bytes stay until the lease is closed. */
int om_get(om_client* client, const char* key, om_lease** lease);
void om_lease_close(om_lease* lease); /* NULL is fine */
uint64_t om_lease_length(const om_lease* lease);
void om_lease_info(const om_lease* lease, om_info* info);
/* The client's own bytes with the object; valid while the lease is open. */
const void* om_lease_metadata(const om_lease* lease, size_t* length);
/* The body as slices of files, valid while the lease is open. */
const om_slice* om_lease_slices(const om_lease* lease, size_t* count);
/* How many bytes were read, fewer than `length` only at the body's end; or -errno. */
int64_t om_lease_read(const om_lease* lease, uint64_t offset, void* into, size_t length);
int om_stat(om_client* client, const char* key, om_info* info);

/* --- writing */

/* All zero is a good beginning. */
typedef struct om_put_options {
  uint64_t length; /* 0: not known yet; om_put() does not look at it */
  uint64_t ttl_ms; /* 0: for ever */
  const void* metadata;
  size_t metadata_length;
  const char* const* tags; /* NULL, or an array that ends with NULL */
  int ephemeral;
} om_put_options;

/* options may be NULL: as if all zero. */
int om_put(om_client* client, const char* key, const om_put_options* options, const void* body,
           size_t length);
int om_reserve(om_client* client, const char* key, const om_put_options* options,
               om_writer** writer);
/* The object, or the right to write it: one of *lease and *writer is set, the other NULL. Of many
 * that ask at once for a key that is not there, one writes; the others wait, wait_ms at most (then
 * -ETIMEDOUT; -EBUSY where wait_ms is 0). */
int om_reserve_or_get(om_client* client, const char* key, const om_put_options* options,
                      unsigned wait_ms, om_lease** lease, om_writer** writer);
/* The object, or the right to write it, or, where somebody else is writing it, its bytes while they
 * arrive: one of the three is set, the others are NULL. */
int om_reserve_or_follow(om_client* client, const char* key, const om_put_options* options,
                         om_lease** lease, om_writer** writer, om_follower** follower);
int om_writer_write(om_writer* writer, const void* bytes, size_t length);
/* Lets followers read what was written so far. From now on those bytes stay as they are, and commit
 * comes with as many at least. Waits for nothing. */
int om_writer_announce(om_writer* writer);
/* Publishes. The writer is gone afterwards, whether it went well or not. */
int om_writer_commit(om_writer* writer, uint64_t* object_id /* may be NULL */);
/* Leaves nothing behind. NULL is fine. */
void om_writer_abort(om_writer* writer);

/* --- following: an object that somebody else is writing. What has arrived is as good as its
 * writer; only what is committed is known to be whole. One thread at a time. */

/* Bytes from `offset` on: at least one, as soon as there is one. 0: the object is committed and
 * ends there. -ETIMEDOUT: nothing more within wait_ms. -ENOENT: the writer gave up or died, and
 * what was read is no object: reserve again. */
int64_t om_follower_read(om_follower* follower, uint64_t offset, void* into, size_t length,
                         unsigned wait_ms);
/* How many bytes are known to be there, and (as the writer declared it) of how many; UINT64_MAX:
 * not known. 1 in *committed (which may be NULL) once the object is whole. */
uint64_t om_follower_available(const om_follower* follower, uint64_t* length, int* committed);
/* Waits until it is committed, wait_ms at most. The follower is gone afterwards, whether it went
 * well or not. */
int om_follower_lease(om_follower* follower, unsigned wait_ms, om_lease** lease);
void om_follower_close(om_follower* follower); /* NULL is fine */

/* -ENOENT: there was none. */
int om_delete(om_client* client, const char* key);
/* How many there were goes to *removed, which may be NULL. */
int om_delete_prefix(om_client* client, const char* prefix, uint64_t* removed);
int om_delete_tag(om_client* client, const char* tag, uint64_t* removed);

/* Removals that reach every cache of the machine: shared objects are hidden, each cache drops its
 * own copies. They wait for the caches as long as one call may take; how many have not confirmed by
 * then goes to *unapplied, which may be NULL. */
int om_purge(om_client* client, const char* key, uint32_t* unapplied);
int om_purge_tag(om_client* client, const char* tag, int soft, uint32_t* unapplied);
/* A ban as Varnish has them, such as "req.url ~ ^/pictures/". */
int om_ban(om_client* client, const char* expression, uint32_t* unapplied);

/* Calls `each` for the keys that begin with prefix, in the order of their bytes, until it returns
 * something else than 0, which is then returned. */
int om_list(om_client* client, const char* prefix,
            int (*each)(void* context, const char* key, uint64_t length), void* context);

#ifdef __cplusplus
} /* NOLINTEND(*-use-using,*-identifier-naming) */
#endif

#endif
