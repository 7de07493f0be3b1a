/* place.h - where in an experiments file something stands, and saying that it is wrong. */
#ifndef EXPERIMENT_PLACE_H
#define EXPERIMENT_PLACE_H

#include "experiment_impl.h"

/* A key, or an element of the list above. */
struct place {
    const struct place *up;
    const char *key; /* NULL = element `index` */
    size_t index;
};

struct reading {
    const char *name; /* of the file, or NULL */
    const struct experiment_checks *checks;
    struct experiments *e;
    struct err *err;
};

/* ERR_USAGE, the text behind the file's name and the place: "layers[1].arms[0].weight: ..."; "body"
 * stands for all of a text without a name. */
int place_bad(const struct reading *r, const struct place *at, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* ---- check.c: what no value of the file tells alone ---- */

/* Layer `j`, at `at`, against those before it. */
int check_layer(const struct reading *r, int j, const struct place *at);
/* Gives the layers, at `at`, the radices of their codes. */
int check_codes(const struct reading *r, const struct place *at);
/* Against r->checks. */
int check_surroundings(const struct reading *r);

#endif
