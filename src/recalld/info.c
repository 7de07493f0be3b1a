/* info.c - what lets an operator see that two replicas differ: version, bundles, reloads. */
#include "info.h"

#include <stdlib.h>

#include "recalld/http.h"
#include "recalld/metrics.h"

static int reloads[2];

/* Names and hashes consist of characters that need no escaping (bundle/manifest.c sees to it). */
static void put_bundle(struct buf *out, struct bundle *b)
{
    struct bundle_facts f;

    bundle_describe(b, &f);
    buf_printf(out,
               "recalld_bundle_info{bundle=\"%s\",engine=\"%s\",manifest_sha256=\"%s\","
               "weights_sha256=\"%s\"} 1\n",
               bundle_name(b), f.engine, f.manifest_sha256, f.weights_sha256);
}

static void put_bundles(struct buf *out, void *arg)
{
    const struct bundle_set *set = registry_acquire(arg);

    for (size_t i = 0; i < bundle_set_count(set); i++)
        put_bundle(out, bundle_set_at(set, i));
    bundle_set_release(set);
}

static void put_default(struct buf *out, void *arg)
{
    const struct bundle_set *set = registry_acquire(arg);
    struct bundle *b = bundle_set_find(set, NULL);

    if (b != NULL)
        buf_printf(out, "recalld_bundle_default{bundle=\"%s\"} 1\n", bundle_name(b));
    bundle_set_release(set);
}

static void put_build(struct buf *out, void *arg)
{
    (void)arg;
    buf_printf(out, "recalld_build_info{version=\"%s\"} 1\n", recalld_version);
}

static int reload_counter(const char *labels)
{
    return metric_counter("recalld_reloads_total", "Reloads asked for with SIGHUP, by result.",
                          labels);
}

void info_register(struct registry *r)
{
    metric_family("recalld_build_info", "What this program is.", put_build, NULL);
    metric_family("recalld_bundle_info", "Bundles that are loaded.", put_bundles, r);
    metric_family("recalld_bundle_default", "The bundle that answers when nothing else is said.",
                  put_default, r);
    reloads[false] = reload_counter("result=\"failed\"");
    reloads[true] = reload_counter("result=\"done\"");
}

void info_reload(bool succeeded)
{
    metric_add(reloads[succeeded], 1);
}
