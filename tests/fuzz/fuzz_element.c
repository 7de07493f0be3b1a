/* fuzz_element.c - one element of a user's behaviour, as it comes from Redis.
 *
 * The input is tried as an element of every form. An id that is found is 1 to 256 bytes of UTF-8,
 * and the element that is written for it holds it again. Where the form leaves no choice, what is
 * found is checked against the bytes. */
#include "../../src/behaviour/format.h"
#include "fuzz.h"

#include <jansson.h>
#include <stdlib.h>

static bool same(struct str a, struct str b)
{
    return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

/* JSON's own opinion of what is UTF-8. */
static bool can_be_id(struct str s)
{
    json_t *v = s.len >= 1 && s.len <= 256 ? json_stringn(s.p, s.len) : NULL;
    bool can = v != NULL;

    json_decref(v);
    return can;
}

static bool decode(const char *form, struct str element, struct arena *scratch, struct str *id)
{
    struct err err = ERR_INIT;
    struct behaviour_element *e = behaviour_element_new(form, &err);
    struct buf again = BUF_INIT;
    struct str found;
    bool good;

    assert(e != NULL);
    good = behaviour_element_decode(e, element, scratch, id);
    if (good) {
        assert(can_be_id(*id));
        behaviour_element_encode(e, *id, -1732435200000, &again);
        assert(behaviour_element_decode(e, (struct str){again.p, again.len}, scratch, &found));
        assert(same(found, *id));
    }
    buf_clear(&again);
    behaviour_element_free(e);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct str element = {(const char *)bytes, len}, id;
    struct arena scratch = ARENA_INIT;
    bool good = decode("id", element, &scratch, &id);

    assert(good == can_be_id(element));
    assert(!good || same(id, element));
    if (decode("id:ts", element, &scratch, &id))
        assert(id.p == element.p && element.p[id.len] == ':' &&
               memchr(id.p + id.len + 1, ':', element.len - id.len - 1) == NULL);
    for (size_t i = 0; i < 2; i++)
        if (decode(i == 0 ? "json:item" : "json:ts", element, &scratch, &id))
            assert(memchr(element.p, '{', element.len) != NULL);
    arena_clear(&scratch);
    return 0;
}
