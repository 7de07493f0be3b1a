/* fuzz_items.c - items.tsv of a bundle.
 *
 * What is accepted has an item per line; ids and rows find each other; an attribute's values and
 * its postings are each other's inverse; memory stays within a bound by the size of the file and
 * the rows; and written and read again it is the same file. */
#include "recalld/items.h"

#include "fuzz.h"

#define NAME "fuzz/items.tsv"
#define ROWS 500 /* of the weights */

static size_t count_lines(const uint8_t *bytes, size_t len)
{
    size_t n = len > 0 && bytes[len - 1] != '\n';

    for (size_t i = 0; i < len; i++)
        n += bytes[i] == '\n';
    return n;
}

/* ---- what must hold --------------------------------------------------------------------- */

static void assert_ids(const struct items *it)
{
    size_t n = 0, len;

    for (uint32_t row = 0; row <= ROWS; row++) {
        const char *id = items_id(it, row, &len);

        if (id == NULL)
            continue;
        assert(len >= 1 && len <= ITEMS_ID_MAX && utf8_valid(id, len));
        assert(row >= items_first_row(it) && row <= items_last_row(it) && row < ROWS);
        assert(items_row(it, id, len) == row);
        n++;
    }
    assert(n == items_count(it));
    assert(items_id(it, items_first_row(it), &len) != NULL);
    assert(items_id(it, items_last_row(it), &len) != NULL);
}

static bool row_has(const struct items *it, size_t attribute, uint32_t row, uint32_t code)
{
    size_t n;
    const uint32_t *codes = items_values(it, attribute, row, &n);

    for (size_t i = 0; i < n; i++)
        if (codes[i] == code)
            return true;
    return false;
}

static void assert_attribute(const struct items *it, size_t a)
{
    size_t n, len, all = 0;

    for (uint32_t code = 0; code < items_value_count(it, a); code++) {
        const char *text = items_value_text(it, a, code, &len);
        const uint32_t *rows = items_postings(it, a, code, &n);

        assert(len >= 1 && len <= ITEMS_ID_MAX && utf8_valid(text, len));
        assert(items_value(it, a, text, len) == code && n >= 1);
        for (size_t i = 0; i < n; i++)
            assert((i == 0 || rows[i] > rows[i - 1]) && row_has(it, a, rows[i], code));
        all += n;
    }
    for (uint32_t row = 0; row <= ROWS; row++) {
        items_values(it, a, row, &n);
        assert(n == 0 || items_id(it, row, &len) != NULL);
        all -= n;
    }
    assert(all == 0);
}

static void assert_memory(const struct items *it, size_t file)
{
    size_t rows = items_last_row(it) - items_first_row(it) + 1, columns = items_attributes(it) + 1;

    assert(items_memory(it) <= 8192 + 64 * file + (rows + 200) * columns * sizeof(uint32_t));
}

/* ---- the file again --------------------------------------------------------------------- */

static void put_values(struct buf *out, const struct items *it, size_t a, uint32_t row)
{
    size_t n, len;
    const uint32_t *codes = items_values(it, a, row, &n);

    buf_putc(out, '\t');
    for (size_t i = 0; i < n; i++) {
        const char *text = items_value_text(it, a, codes[i], &len);

        if (i > 0)
            buf_putc(out, '|');
        buf_put(out, text, len);
    }
}

static void put_items(struct buf *out, const struct items *it)
{
    buf_puts(out, "row\tid");
    for (size_t a = 0; a < items_attributes(it); a++)
        buf_printf(out, "\t%s", items_attribute_name(it, a));
    buf_putc(out, '\n');
    for (uint32_t row = items_first_row(it); row <= items_last_row(it); row++) {
        size_t len;
        const char *id = items_id(it, row, &len);

        if (id == NULL)
            continue;
        buf_printf(out, "%u\t", row);
        buf_put(out, id, len);
        for (size_t a = 0; a < items_attributes(it); a++)
            put_values(out, it, a, row);
        buf_putc(out, '\n');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = ERR_INIT;
    struct items *it = items_load(NAME, bytes, len, ROWS, &err), *again;
    struct buf first = BUF_INIT, second = BUF_INIT;

    if (it == NULL) {
        assert(err.code == ERR_FORMAT || err.code == ERR_LIMIT);
        assert_refusal(&err, NAME ": ");
        return 0;
    }
    assert(items_count(it) + 1 == count_lines(bytes, len));
    assert_ids(it);
    for (size_t a = 0; a < items_attributes(it); a++)
        assert_attribute(it, a);
    assert_memory(it, len);
    put_items(&first, it);
    again = items_load(NAME, first.p, first.len, ROWS, &err);
    assert(again != NULL);
    put_items(&second, again);
    assert_same_text(&first, &second);
    items_free(it);
    items_free(again);
    buf_clear(&first);
    buf_clear(&second);
    return 0;
}
