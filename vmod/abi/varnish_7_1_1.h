// What Varnish 7.1.1 keeps to itself and a storage needs: private layouts and prototypes, nothing
// else. Another version gets a header of its own beside this one; abi.cc checks before first use
// that the running varnishd is the one described here.
//
// Every file of the VMOD includes this instead of Varnish's headers: the order of the includes is
// what makes them compile as C++ (cache_varnishd.h does not).
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wold-style-cast"
extern "C" {
#include "cache/cache.h"
#include "cache/cache_director.h"
#include "cache/cache_filter.h"
#include "common/common_param.h"
#include "vcl.h"
#include "vcs.h"
#include "vmod_abi.h"
#include "vsb.h"
#include "vtim.h"
}
#pragma GCC diagnostic pop

extern "C" {  // NOLINTBEGIN(*-naming,*-use-using): names and manners of Varnish

struct lru;
struct storage;
struct object;

enum baninfo { BI_NEW = 0, BI_DROP = 1 };

struct obj_methods {
  void (*objfree)(struct worker*, struct objcore*);
  int (*objiterator)(struct worker*, struct objcore*, void* priv, objiterate_f* func, int final);
  int (*objgetspace)(struct worker*, struct objcore*, ssize_t* size, uint8_t** ptr);
  void (*objextend)(struct worker*, struct objcore*, ssize_t length);
  const void* (*objgetattr)(struct worker*, struct objcore*, enum obj_attr, ssize_t* length);
  void* (*objsetattr)(struct worker*, struct objcore*, enum obj_attr, ssize_t length,
                      const void* bytes);
  void (*objtrimstore)(struct worker*, struct objcore*);
  void (*objbocdone)(struct worker*, struct objcore*, struct boc*);
  void (*objslim)(struct worker*, struct objcore*);
  void (*objtouch)(struct worker*, struct objcore*, vtim_real now);
  void (*objsetstate)(struct worker*, const struct objcore*, enum boc_state_e next);
};

struct stevedore {
  unsigned magic;
#define OM_STEVEDORE_MAGIC 0x4baf43db
  const char* name;
  void (*init)(struct stevedore*, int argc, char* const* argv);
  void (*open)(struct stevedore*);
  void (*close)(const struct stevedore*, int pass);
  int (*allocobj)(struct worker*, const struct stevedore*, struct objcore*, unsigned wsl);
  int (*baninfo)(const struct stevedore*, enum baninfo event, const uint8_t* spec, unsigned length);
  void (*banexport)(const struct stevedore*, const uint8_t* specs, unsigned length);
  void (*panic)(struct vsb*, const struct objcore*);
  void* (*allocbuf)(struct worker*, const struct stevedore*, size_t size, uintptr_t* priv);
  void (*freebuf)(struct worker*, const struct stevedore*, uintptr_t priv);
  struct storage* (*sml_alloc)(const struct stevedore*, size_t size);
  void (*sml_free)(struct storage*);
  struct object* (*sml_getobj)(struct worker*, struct objcore*);
  const struct obj_methods* methods;
  struct lru* lru;
  VCL_BYTES (*var_free_space)(const struct stevedore*);
  VCL_BYTES (*var_used_space)(const struct stevedore*);
  VCL_BOOL (*var_happy)(const struct stevedore*);
  void* priv;
  VTAILQ_ENTRY(stevedore) list;
  const char* ident;
  const char* vclname;
};
static_assert(sizeof(struct stevedore) == 192 && offsetof(struct stevedore, allocobj) == 40 &&
              offsetof(struct stevedore, methods) == 112 &&
              offsetof(struct stevedore, ident) == 176);

// Only the first fields: never allocate one.
struct objhead {
  unsigned magic;
#define OM_OBJHEAD_MAGIC 0x1b96615d
  int refcnt;
  struct lock mtx;
  VTAILQ_HEAD(, objcore) objcs;
  uint8_t digest[DIGEST_LEN];
  VTAILQ_HEAD(, req) waitinglist;
};
static_assert(offsetof(struct objhead, digest) == 32);
static_assert(offsetof(struct objhead, waitinglist) == 64);

struct ban {
  unsigned magic;
#define OM_BAN_MAGIC 0x700b08ea
  unsigned flags;
  VTAILQ_ENTRY(ban) list;
  VTAILQ_ENTRY(ban) l_list;
  int64_t refcount;
  VTAILQ_HEAD(, objcore) objcore;
  uint8_t* spec;
};
VTAILQ_HEAD(banhead_s, ban);
struct ban_proto;
static_assert(sizeof(struct ban) == 72 && offsetof(struct ban, spec) == 64);
// A ban's spec: big endian time (8), length (4), flags (1), 3 bytes of nothing, then the tests.
#define OM_BAN_FLAG_COMPLETED 4
#define OM_BAN_FLAG_NODEDUP 32

// Only the first fields: wrk->v1l points to one while HTTP/1 writes.
struct v1l {
  unsigned magic;
#define OM_V1L_MAGIC 0x2f2142e5
  int* wfd;
  stream_close_t werr;
};

// A fetch's connection to its backend: what a director hands to Varnish.
struct http_conn {
  unsigned magic;
#define OM_HTTP_CONN_MAGIC 0x3e19edd1
  int* rfd;
  stream_close_t doclose;
  body_status_t body_status;
  struct ws* ws;
  char* rxbuf_b;
  char* rxbuf_e;
  char* pipeline_b;
  char* pipeline_e;
  ssize_t content_length;
  void* priv;
  vtim_dur first_byte_timeout;
  vtim_dur between_bytes_timeout;
};
static_assert(sizeof(struct http_conn) == 104 && offsetof(struct http_conn, content_length) == 72);

// Events of objects, a mask.
typedef void obj_event_f(struct worker*, void* priv, struct objcore*, unsigned event);
#define OEV_INSERT (1U << 1)
#define OEV_BANCHG (1U << 2)
#define OEV_TTLCHG (1U << 3)
#define OEV_EXPIRE (1U << 4)

// wrk->stats is an array of 64 bit counters; this is the place of n_object.
#define OM_WORKER_STAT_N_OBJECT 33

}  // extern "C": NOLINTEND(*-naming,*-use-using)

// Every symbol of varnishd that we use beyond the public headers: X(name, type of its address).
#define OM_ABI_SYMBOLS(X)                                                                    \
  X(STV__iter, int (*)(struct stevedore**))                                                  \
  X(STV_next, const struct stevedore* (*)())                                                 \
  X(stv_transient, struct stevedore**)                                                       \
  X(LRU_Alloc, struct lru* (*)())                                                            \
  X(LRU_NukeOne, int (*)(struct worker*, struct lru*))                                       \
  X(LRU_Add, void (*)(struct objcore*, vtim_real))                                           \
  X(LRU_Remove, void (*)(struct objcore*))                                                   \
  X(LRU_Touch, void (*)(struct worker*, struct objcore*, vtim_real))                         \
  X(HSH_RefBoc, struct boc* (*)(const struct objcore*))                                      \
  X(HSH_DerefBoc, void (*)(struct worker*, struct objcore*))                                 \
  X(HSH_DerefObjCore, int (*)(struct worker*, struct objcore**, int))                        \
  X(HSH_Lookup, int (*)(struct req*, struct objcore**, struct objcore**))                    \
  X(HSH_Kill, void (*)(struct objcore*))                                                     \
  X(HSH_Fail, void (*)(struct objcore*))                                                     \
  X(ObjExtend, void (*)(struct worker*, struct objcore*, ssize_t, int))                      \
  X(ObjWaitExtend, uint64_t (*)(const struct worker*, const struct objcore*, uint64_t))      \
  X(ObjSetState, void (*)(struct worker*, const struct objcore*, enum boc_state_e))          \
  X(EXP_Insert, void (*)(struct worker*, struct objcore*))                                   \
  X(EXP_RefNewObjcore, void (*)(struct objcore*))                                            \
  X(BAN_Reload, void (*)(const uint8_t*, unsigned))                                          \
  X(BAN_Build, struct ban_proto* (*)())                                                      \
  X(BAN_AddTest, const char* (*)(struct ban_proto*, const char*, const char*, const char*))  \
  X(BAN_Commit, const char* (*)(struct ban_proto*))                                          \
  X(BAN_Abandon, void (*)(struct ban_proto*))                                                \
  X(EXP_Rearm, void (*)(struct objcore*, vtim_real, vtim_dur, vtim_dur, vtim_dur))           \
  X(EXP_Remove, void (*)(struct objcore*))                                                   \
  X(BAN_Time, vtim_real (*)(const struct ban*))                                              \
  X(ban_time, vtim_real (*)(const uint8_t*))                                                 \
  X(ban_len, unsigned (*)(const uint8_t*))                                                   \
  X(ban_evaluate,                                                                            \
    int (*)(struct worker*, const uint8_t*, struct objcore*, const struct http*, unsigned*)) \
  X(ban_mark_completed, void (*)(struct ban*))                                               \
  X(ban_mtx, struct lock*)                                                                   \
  X(ban_head, struct banhead_s*)                                                             \
  X(ban_start, struct ban* volatile*)                                                        \
  X(ObjSubscribeEvents, uintptr_t (*)(obj_event_f*, void*, unsigned))                        \
  X(VSL_Setup, void (*)(struct vsl_log*, void*, size_t))                                     \
  X(VSL_Flush, void (*)(struct vsl_log*, int))                                               \
  X(Pool_Task_Any, int (*)(struct pool_task*, enum task_prio))                               \
  X(Pool_Sumstat, void (*)(const struct worker*))                                            \
  X(THR_GetBusyobj, struct busyobj* (*)())                                                   \
  X(THR_GetRequest, struct req* (*)())                                                       \
  X(V1L_Flush, stream_close_t (*)(const struct worker*))                                     \
  X(VDP_range, const struct vdp*)                                                            \
  X(HTTP1_transport, const struct transport*)                                                \
  X(cache_param, struct params* volatile*)                                                   \
  X(VFP_Push, struct vfp_entry* (*)(struct vfp_ctx*, const struct vfp*))                     \
  X(VFP_Setup, void (*)(struct vfp_ctx*, struct worker*))                                    \
  X(HTTP_Setup, void (*)(struct http*, struct ws*, struct vsl_log*, enum VSL_tag_e))         \
  X(RFC2616_Vary_AE, void (*)(struct http*))                                                 \
  X(ObjSetAttr, void* (*)(struct worker*, struct objcore*, int, ssize_t, const void*))       \
  X(cli_thread, pthread_t*)
