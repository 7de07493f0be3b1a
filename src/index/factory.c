/* factory.c - the index factories a bundle may use. Faiss knows many more; these are the ones that
 * work with search parameters (or, fast-scan, never need them), keep dense ids and can be checked.
 */
#include "factory.h"

#include <string.h>

const char index_factories[] =
    "Flat; HNSW<links>[,Flat|,SQ8]; IVF<lists>,Flat|SQ8|PQ<parts>[x8]|PQ<parts>x4fs; PQ<parts>x4fs";

#define LINKS_MAX 256
#define LISTS_MAX (1 << 20)
#define PARTS_MAX 4096

/* If *p goes on with `word`, steps over it. */
static bool eat(const char **p, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(*p, word, len) != 0)
        return false;
    *p += len;
    return true;
}

static bool eat_number(const char **p, size_t max, size_t *out)
{
    size_t len = strspn(*p, "0123456789");
    uint64_t v;

    if (!parse_u64(*p, len, &v) || v == 0 || v > max || **p == '0')
        return false;
    *p += len;
    *out = v;
    return true;
}

static bool eat_pq(const char **p, struct factory *f)
{
    if (!eat(p, "PQ") || !eat_number(p, PARTS_MAX, &f->parts))
        return false;
    f->code = eat(p, "x4fs") ? CODE_PQ_FAST : CODE_PQ;
    if (f->code == CODE_PQ)
        eat(p, "x8");
    return true;
}

static bool eat_code(const char **p, struct factory *f)
{
    if (eat(p, "Flat"))
        f->code = CODE_FLAT;
    else if (eat(p, "SQ8"))
        f->code = CODE_SQ8;
    else
        return f->search == SEARCH_IVF && eat_pq(p, f);
    return true;
}

static bool parse(const char **p, struct factory *f)
{
    if (eat(p, "HNSW")) {
        f->search = SEARCH_HNSW;
        return eat_number(p, LINKS_MAX, &f->links) && (!eat(p, ",") || eat_code(p, f));
    }
    if (eat(p, "IVF")) {
        f->search = SEARCH_IVF;
        return eat_number(p, LISTS_MAX, &f->lists) && eat(p, ",") && eat_code(p, f);
    }
    return eat(p, "Flat") || (eat_pq(p, f) && f->code == CODE_PQ_FAST);
}

bool factory_parse(const char *text, struct factory *f)
{
    memset(f, 0, sizeof *f);
    return text != NULL && parse(&text, f) && *text == '\0';
}

bool factory_has_effort(const struct factory *f)
{
    return f->search != SEARCH_ALL && f->code != CODE_PQ_FAST;
}

bool factory_equal(const struct factory *a, const struct factory *b)
{
    return a->search == b->search && a->code == b->code && a->links == b->links &&
           a->lists == b->lists && a->parts == b->parts;
}

const char *index_effort_name(const char *factory)
{
    struct factory f;

    if (!factory_parse(factory, &f) || !factory_has_effort(&f))
        return NULL;
    return f.search == SEARCH_HNSW ? "efSearch" : "nprobe";
}
