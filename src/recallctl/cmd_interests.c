/* cmd_interests.c - recallctl interests: the K vectors that a history becomes. */
#include "recallctl.h"
#include "recalld/bundle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct interests {
    const char *bundle, *history;
    bool json;
};

#define AT(field) offsetof(struct interests, field)

static const struct opt opts[] = {
    {"bundle", OPT_TEXT, AT(bundle), 0, 0, "DIR", "the bundle to ask"},
    {"history", OPT_TEXT, AT(history), 0, 0, "A,B,C", "item ids, oldest first"},
    {"json", OPT_FLAG, AT(json), 0, 0, NULL, "JSON on one line, for programs"},
};

/* The known ids' rows into *rows (caller frees), the unknown ids as a JSON list. */
static size_t look_up(const struct items *items, const char *history, uint32_t **rows,
                      struct buf *unknown)
{
    size_t n = 0, len;
    const char *id;

    *rows = xcalloc(strlen(history) + 1, sizeof **rows);
    buf_putc(unknown, '[');
    while (next_id(&history, &id, &len)) {
        uint32_t row = items_row(items, id, len);

        if (row != ITEMS_NONE) {
            (*rows)[n++] = row;
            continue;
        }
        if (unknown->len > 1)
            buf_puts(unknown, ", ");
        buf_json(unknown, id, len);
    }
    buf_putc(unknown, ']');
    return n;
}

static void put_vectors(struct buf *out, const float *v, size_t k, size_t dim, bool json)
{
    for (size_t i = 0; i < k; i++) {
        if (i > 0)
            buf_putc(out, ',');
        if (!json)
            buf_puts(out, "\n  ");
        for (size_t j = 0; j < dim; j++) {
            buf_putc(out, j == 0 ? '[' : ',');
            buf_f32(out, v[i * dim + j]);
        }
        buf_putc(out, ']');
    }
}

static void print_interests(const struct bundle *b, const char *history, bool json)
{
    const struct model *m = bundle_model(b);
    size_t k = (size_t)model_interest_count(m), dim = (size_t)model_dim(m);
    struct model_scratch *scratch = model_scratch_new();
    struct buf out = BUF_INIT, unknown = BUF_INIT;
    uint32_t *rows;
    size_t n = look_up(bundle_items(b), history, &rows, &unknown);
    struct model_input in = {.rows = rows, .n_rows = n, .dynamic = -1};

    in.interests = xcalloc(k * dim, sizeof *in.interests);
    model_interests(m, scratch, &in, 1);
    buf_puts(&out, "{\"interests\":[");
    put_vectors(&out, in.interests, k, dim, json);
    buf_printf(&out, "],%s\"used\":%zu,\"unknown\":%s}", json ? "" : "\n ", in.used,
               buf_cstr(&unknown));
    puts(buf_cstr(&out));
    buf_clear(&out);
    buf_clear(&unknown);
    free(in.interests);
    free(rows);
    model_scratch_free(scratch);
}

static int run(const struct args *a, struct err *err)
{
    const struct interests *o = a->options;
    struct bundle *b;

    if (args_need(o->bundle, "bundle", err) == -1 || args_need(o->history, "history", err) == -1)
        return -1;
    if (!utf8_valid(o->history, strlen(o->history)))
        return err_set(err, ERR_USAGE, "--history: must be UTF-8");
    b = bundle_open(o->bundle, progress_show, NULL, err);
    progress_wipe();
    if (b == NULL)
        return -1;
    print_interests(b, o->history, o->json);
    bundle_release(b);
    return 0;
}

const struct command cmd_interests = {
    .name = "interests",
    .about = "the interest vectors of a history, as JSON",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .options_size = sizeof(struct interests),
    .run = run,
};
