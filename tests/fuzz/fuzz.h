/* fuzz.h - what the fuzz targets share.
 *
 * A target is one file fuzz_<what>.c with the function below. libFuzzer calls it with inputs of its
 * own making (`make fuzz`); replay.c calls it with those that are kept in corpus/<what>/, as part
 * of `make test`. A target asserts what must hold of any input, so most of it is about inputs that
 * are accepted. */
#ifndef FUZZ_H
#define FUZZ_H

#include "recalld/base.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len); /* always 0 */

/* Whoever refuses an input says why, beginning with `start`, and in UTF-8: texts go into JSON. */
static inline void assert_refusal(const struct err *err, const char *start)
{
    assert(err->code != ERR_NONE);
    assert(strncmp(err->text, start, strlen(start)) == 0 && strlen(err->text) > strlen(start));
    assert(utf8_valid(err->text, strlen(err->text)));
}

static inline void assert_same_text(const struct buf *a, const struct buf *b)
{
    assert(a->len == b->len && memcmp(a->p, b->p, a->len) == 0);
}

#endif
