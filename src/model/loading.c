/* loading.c - tensors of a checkpoint by role and shape. Every refusal names the file, the tensor
 * and what was expected. */
#include "loading.h"

#include "recalld/vec.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows projected at a time: their vectors stay in the cache while every column is computed. */
#define PROJECT_ROWS 256

/* ---- memory that the model owns -------------------------------------------------- */

void loading_adopt(struct loading *l, float *p, size_t count)
{
    if (p == NULL)
        return;
    assert(l->m->n_owned < ARRAY_LEN(l->m->owned));
    l->m->owned[l->m->n_owned++] = p;
    l->m->memory += count * sizeof *p;
}

float *loading_allot(struct loading *l, size_t a, size_t b)
{
    size_t count = 0;
    float *p = mem_product(a, b, &count) ? mem_try_aligned(count, sizeof *p) : NULL;

    if (p == NULL)
        err_set(l->err, ERR_NOMEM, "%s: no memory for %zu times %zu floats", ckpt_name(l->m->ckpt),
                a, b);
    loading_adopt(l, p, count);
    return p;
}

/* ---- finding ---------------------------------------------------------------------- */

int loading_find_any(struct loading *l, const struct tensor **t, const char *pattern,
                     const char *role)
{
    const struct ckpt *c = l->m->ckpt;
    const struct tensor *second;

    *t = pattern == NULL ? NULL : variant_tensor(c, pattern, 0);
    if (*t != NULL && (*t)->count == 0)
        return err_set(l->err, ERR_FORMAT, "%s: tensor %s holds no values, a size of it is 0",
                       ckpt_name(c), (*t)->name);
    second = *t == NULL ? NULL : variant_tensor(c, pattern, 1);
    if (second == NULL)
        return 0;
    return err_set(l->err, ERR_FORMAT,
                   "%s: tensors %s and %s can both be %s of variant %s; keep only the one that is",
                   ckpt_name(c), (*t)->name, second->name, role, l->m->o.variant);
}

int loading_find(struct loading *l, const struct tensor **t, const char *pattern, const char *role)
{
    const struct model *m = l->m;
    struct buf names = BUF_INIT;

    if (pattern == NULL)
        return err_set(l->err, ERR_USAGE, "variant %s has no tensor for %s", m->o.variant, role);
    if (loading_find_any(l, t, pattern, role) == -1)
        return -1;
    if (*t != NULL)
        return 0;
    variant_put_names(&names, pattern);
    err_set(l->err, ERR_FORMAT, "%s: no tensor %s, where variant %s keeps %s", ckpt_name(m->ckpt),
            buf_cstr(&names), m->o.variant, role);
    buf_clear(&names);
    return -1;
}

/* ---- shapes ---------------------------------------------------------------------- */

void loading_complete(int *option, size_t found)
{
    if (*option == 0)
        *option = found > INT_MAX ? INT_MAX : (int)found;
}

int loading_expect_dims(struct loading *l, const struct ckpt *c, const struct tensor *t, int n_dims)
{
    if (t->n_dims == n_dims)
        return 0;
    return err_set(l->err, ERR_FORMAT, "%s: tensor %s has %d dimensions, expected %d", ckpt_name(c),
                   t->name, t->n_dims, n_dims);
}

static void put_shape(struct buf *b, const size_t *shape, int n_dims)
{
    buf_putc(b, '[');
    for (int d = 0; d < n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", shape[d]);
    buf_putc(b, ']');
}

int loading_expect_shape(struct loading *l, const struct ckpt *c, const struct tensor *t,
                         int n_dims, const size_t *shape, const char *axes)
{
    struct buf b = BUF_INIT;

    if (t->n_dims == n_dims && memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape) == 0)
        return 0;
    buf_printf(&b, "%s: tensor %s has shape ", ckpt_name(c), t->name);
    put_shape(&b, t->shape, t->n_dims);
    buf_puts(&b, ", expected ");
    put_shape(&b, shape, n_dims);
    buf_printf(&b, " (%s)", axes);
    err_set(l->err, ERR_FORMAT, "%s", buf_cstr(&b));
    buf_clear(&b);
    return -1;
}

int loading_expect_table(struct loading *l, const struct ckpt *c, const struct tensor *t, size_t a,
                         size_t b, const char *axes)
{
    const size_t shape[3] = {1, a, b};
    bool has_one = t->n_dims == 3;
    char text[64];

    snprintf(text, sizeof text, "%s%s", has_one ? "1, " : "", axes);
    return loading_expect_shape(l, c, t, has_one ? 3 : 2, has_one ? shape : shape + 1, text);
}

int loading_expect_linear(struct loading *l, const struct tensor *t, bool turned, size_t in,
                          size_t out, const char *in_name, const char *out_name)
{
    const size_t shape[2] = {turned ? out : in, turned ? in : out};
    char text[64];

    snprintf(text, sizeof text, "%s, %s", turned ? out_name : in_name, turned ? in_name : out_name);
    return loading_expect_shape(l, l->m->ckpt, t, 2, shape, text);
}

/* ---- values ----------------------------------------------------------------------- */

static void no_memory(struct loading *l, const struct tensor *t)
{
    err_set(l->err, ERR_NOMEM, "%s: no memory for tensor %s", ckpt_name(l->m->ckpt), t->name);
}

const float *loading_keep(struct loading *l, const struct tensor *t, bool turn)
{
    float *owned;
    const float *values = loading_matrix(l, t, turn, &owned);

    if (values != NULL && owned == NULL) {
        owned = mem_try_aligned(t->count, sizeof *owned);
        if (owned != NULL)
            memcpy(owned, values, t->count * sizeof *owned);
        else
            no_memory(l, t);
    }
    loading_adopt(l, owned, t->count);
    return owned;
}

void loading_transpose(float *out, const float *in, size_t n, size_t m)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            out[j * n + i] = in[i * m + j];
}

const float *loading_matrix(struct loading *l, const struct tensor *t, bool turn, float **owned)
{
    const float *values = tensor_f32(l->m->ckpt, t, owned, l->err);
    float *turned;

    if (values == NULL || !turn)
        return values;
    turned = mem_try_aligned(t->count, sizeof *turned);
    if (turned == NULL)
        no_memory(l, t);
    else
        loading_transpose(turned, values, t->shape[0], t->shape[1]);
    free(*owned);
    *owned = turned;
    return turned;
}

int loading_project_items(struct loading *l, const float *weights, const float *bias, size_t width)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.item_dim;

    m->item_width = width;
    m->projected = loading_allot(l, m->rows, width);
    if (m->projected == NULL)
        return -1;
    for (size_t r = 0; r < m->rows; r += PROJECT_ROWS) {
        size_t n = m->rows - r < PROJECT_ROWS ? m->rows - r : PROJECT_ROWS;

        vec_affine(m->projected + r * width, width, m->items + r * dim, dim, n, weights, bias, dim,
                   width);
    }
    return 0;
}
