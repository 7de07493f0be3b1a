/* hung.c - users whose keys hang while others are answered: a slow shard behind a proxy, a script.
 *
 * Redis answers in order, so who asks for such a key loses a connection for as long as it waits.
 * Hence one connection at most waits for a user here, and when its time was over nobody asks again
 * for a while. Users go by their hash: two that share one share its fate. */
#include "hung.h"

#define TRY_AGAIN_NS ((uint64_t)250000000) /* recovery is promised within a second */
#define FORGET_NS ((uint64_t)10000000000)

void hung_init(struct hung *h)
{
    pthread_mutex_init(&h->lock, NULL);
    atomic_init(&h->n, 0);
}

void hung_clear(struct hung *h)
{
    pthread_mutex_destroy(&h->lock);
}

static void drop(struct hung *h, struct hung_user *u)
{
    size_t last = atomic_load(&h->n) - 1;

    *u = h->users[last];
    atomic_store(&h->n, last);
}

/* Also forgets those that nobody has asked for in a long time. */
static struct hung_user *find(struct hung *h, uint64_t hash)
{
    uint64_t now = clock_ns();

    for (size_t i = atomic_load(&h->n); i-- > 0;)
        if (h->users[i].until_ns + FORGET_NS < now)
            drop(h, &h->users[i]);
    for (size_t i = 0; i < atomic_load(&h->n); i++)
        if (h->users[i].hash == hash)
            return &h->users[i];
    return NULL;
}

enum hung_verdict hung_check(struct hung *h, struct str user_id, uint64_t deadline_ns,
                             const void *by)
{
    enum hung_verdict verdict = HUNG_NOT;
    struct hung_user *u;

    if (atomic_load(&h->n) == 0)
        return HUNG_NOT;
    pthread_mutex_lock(&h->lock);
    u = find(h, hash_bytes(user_id.p, user_id.len));
    if (u != NULL && clock_ns() < u->until_ns) {
        verdict = HUNG_YES;
    } else if (u != NULL) {
        verdict = HUNG_TRY;
        u->until_ns = deadline_ns + TRY_AGAIN_NS;
        u->by = by;
    }
    pthread_mutex_unlock(&h->lock);
    return verdict;
}

/* When there is no room, whose time comes first makes it. */
static struct hung_user *place(struct hung *h)
{
    size_t n = atomic_load(&h->n);
    struct hung_user *first = &h->users[0];

    if (n < HUNG_MAX) {
        atomic_store(&h->n, n + 1);
        return &h->users[n];
    }
    for (size_t i = 1; i < n; i++)
        if (h->users[i].until_ns < first->until_ns)
            first = &h->users[i];
    return first;
}

bool hung_add(struct hung *h, struct str user_id, uint64_t deadline_ns, const void *by)
{
    uint64_t hash = hash_bytes(user_id.p, user_id.len);
    struct hung_user *u;
    bool added;

    pthread_mutex_lock(&h->lock);
    u = find(h, hash);
    added = u == NULL || u->by == by || u->until_ns <= clock_ns();
    if (added)
        *(u != NULL ? u : place(h)) = (struct hung_user){hash, deadline_ns + TRY_AGAIN_NS, by};
    pthread_mutex_unlock(&h->lock);
    return added;
}

void hung_remove(struct hung *h, struct str user_id)
{
    struct hung_user *u;

    pthread_mutex_lock(&h->lock);
    u = find(h, hash_bytes(user_id.p, user_id.len));
    if (u != NULL)
        drop(h, u);
    pthread_mutex_unlock(&h->lock);
}

void hung_release(struct hung *h, struct str user_id, const void *by)
{
    struct hung_user *u;

    pthread_mutex_lock(&h->lock);
    u = find(h, hash_bytes(user_id.p, user_id.len));
    if (u != NULL && u->by == by)
        u->until_ns = 0;
    pthread_mutex_unlock(&h->lock);
}

void hung_remove_all(struct hung *h)
{
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->n, 0);
    pthread_mutex_unlock(&h->lock);
}
