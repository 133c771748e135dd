/* For LD_PRELOAD: while the file named by OM_TEST_FORGET is there, PCRE2 does not compile what has
 * OM_TEST_FORGET_TEXT in it, as another version of it may not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void* compile_fn(const unsigned char*, size_t, uint32_t, int*, size_t*, void*);

void* pcre2_compile_8(const unsigned char* pattern, size_t length, uint32_t options, int* error,
                      size_t* offset, void* context) {
  const char* const forget = getenv("OM_TEST_FORGET");
  const char* const text = getenv("OM_TEST_FORGET_TEXT");
  if (forget != NULL && text != NULL && access(forget, F_OK) == 0 &&
      strstr((const char*)pattern, text) != NULL) {
    *error = 115; /* reference to a group that is not there */
    *offset = 0;
    return NULL;
  }
  compile_fn* const next = (compile_fn*)dlsym(RTLD_NEXT, "pcre2_compile_8");
  return next(pattern, length, options, error, offset, context);
}
