/* model.h - a trained multi-interest model: from a user's recent rows to K interest vectors.
 *
 * Two generic routines, capsule routing (docs/models.md) and self-attention, with the
 * options of docs/models.md; a variant is a row of values for all of them. Inference only; never
 * changes after loading, so any thread may use it, each with its own scratch. All arithmetic is
 * vec.h's: the same rows give the same bits whatever the batch or the machine. */
#ifndef RECALLD_MODEL_H
#define RECALLD_MODEL_H

#include "recalld/base.h"
#include "recalld/ckpt.h"

#define MODEL_PASSES_MAX 16
#define MODEL_INTERESTS_MAX 64
#define MODEL_HISTORY_MAX 1024
#define MODEL_DIM_MAX 4096

enum model_kind { MODEL_CAPSULES, MODEL_ATTENTION };
enum model_bilinear {
    BILINEAR_SHARED,
    BILINEAR_SHARED_INTERLEAVED,
    BILINEAR_PER_INTEREST,
    BILINEAR_PER_POSITION
};
enum model_axis { AXIS_INTEREST, AXIS_SEQUENCE };
enum model_mask { MASK_BEFORE, MASK_AFTER };
enum model_padding_vector { PADDING_ZERO, PADDING_LIVE };
enum model_init {
    INIT_ZEROS,
    INIT_TENSOR,
    INIT_FILE,
    INIT_NORMAL,
    INIT_TRUNCATED_NORMAL,
    INIT_UNIFORM,
    INIT_EASYREC
};
enum model_update { UPDATE_ADD, UPDATE_ADD_CLIPPED, UPDATE_REPLACE_SCALED, UPDATE_PROBABILITY_ADD };
enum model_activation { ACTIVATION_SQUASH, ACTIVATION_L2, ACTIVATION_NONE };
enum model_squash { SQUASH_EPS_INSIDE, SQUASH_CLAMP_SQUARE, SQUASH_CLAMP_LENGTH };
enum model_projection { PROJECTION_NONE, PROJECTION_RELU, PROJECTION_LINEAR, PROJECTION_UNSET };
enum model_positions { POSITIONS_NONE, POSITIONS_ADD, POSITIONS_ADD_SCALED };
enum model_values { VALUES_ITEMS, VALUES_INPUTS };
enum model_attention_activation { ATTENTION_LINEAR, ATTENTION_TANH };
enum model_dynamic {
    KDYN_NONE,
    KDYN_FLOOR_LOG2,
    KDYN_CEIL_LOG2,
    KDYN_TRUNC_LN,
    KDYN_FLOOR_LOG2_1P
};
enum model_order { ORDER_OLDEST_FIRST, ORDER_NEWEST_FIRST };
enum model_truncate { TRUNCATE_LAST, TRUNCATE_FIRST };
enum model_padding_by { PADDING_BY_LENGTH, PADDING_BY_ID };

/* Integers that are 0 are read from tensor shapes where shapes tell, otherwise required. A
 * projection that is unset is the one the checkpoint has, if any. */
struct model_options {
    const char *variant;  /* a name of the variant table, or NULL; static string */
    enum model_kind kind; /* the variant's; of what follows, each kind has its part */
    int interests, max_history, item_dim;
    /* capsules */
    enum model_bilinear bilinear;
    int capsule_dim, iterations;
    enum model_axis softmax[MODEL_PASSES_MAX]; /* by pass */
    int softmax_passes; /* length of the list given; 0: one value stands for all passes */
    enum model_mask mask;
    enum model_init init;
    char init_name[256]; /* tensor or file */
    uint64_t init_seed;
    double init_std;
    enum model_update update;
    enum model_activation mid_activation;
    enum model_squash squash;
    double squash_eps, squash_power, squash_ratio, logit_scale;
    /* attention */
    enum model_positions attention_positions;
    enum model_values attention_values;
    enum model_attention_activation attention_activation;
    /* both */
    enum model_padding_vector padding_vector;
    enum model_projection projection; /* key relu_layer is another name for it */
    bool normalize_user, normalize_item;
    enum model_dynamic dynamic_interests;
    enum model_order history_order;
    enum model_truncate truncate;
    enum model_padding_by padding_by;
};

/* The options of a variant; ERR_USAGE lists the names when there is no such. */
int model_options_variant(struct model_options *o, const char *variant, struct err *err)
    WARN_UNUSED;
/* One key of the vocabulary, its value as text, plain or JSON (a softmax list as JSON or
 * comma-separated). `variant` must be set first: it resets all. ERR_USAGE names key, value and what
 * is allowed; a key that the variant's kind of model has no use for is refused too. */
int model_options_set(struct model_options *o, const char *key, const char *value, struct err *err)
    WARN_UNUSED;
/* From the checkpoint's own metadata: `variant` first, then every key of the vocabulary; other
 * metadata keys are ignored. Without `variant` there, the names of the tensors tell it; ERR_USAGE
 * when they fit several, and none is set when they fit none. Returns how many keys were found. */
int model_options_ckpt(struct model_options *o, const struct ckpt *c, struct err *err) WARN_UNUSED;
/* The keys of the variant's kind with their values, as (key, JSON text of the value) pairs, through
 * `each`: what a manifest holds. `variant` comes first; what is not set is left out. */
void model_options_each(const struct model_options *o,
                        void (*each)(void *arg, const char *key, const char *json), void *arg);
bool model_options_is_key(const char *key);

/* What a checkpoint tells of its model, for people; by the steps of model_open, but no values are
 * read. First the variants that its tensors fit; of these, or of the one that its metadata name,
 * the rest. */
enum model_finding_kind {
    FINDING_VARIANT, /* name: a variant that fits; text: why */
    FINDING_REFUSAL, /* name: such a variant; text: why it will not load */
    FINDING_MISSING, /* nothing fits; name: a variant; text: the tensors that it would need */
    FINDING_TOLD,    /* name: an option; value: from shapes or metadata */
    FINDING_UNTOLD,  /* name: an option; value: what holds unless it is said, NULL: it must be said;
                        text: what it is */
    FINDING_TENSOR,  /* name: a tensor that is used; text: as what */
};
struct model_finding {
    enum model_finding_kind kind;
    const char *name, *value, *text; /* NULL where not listed above; borrowed for the call */
};
/* Returns how many variants fit. `dir` as for model_open. */
size_t model_guess(const struct ckpt *c, const char *dir,
                   void (*each)(void *arg, const struct model_finding *f), void *arg);

struct model;
/* `dir` is where INIT_FILE paths start (NULL: the working directory). Nothing of `c` is read any
 * more once the model is open, but for the item table in its bytes: see model_view. ERR_USAGE:
 * options that make no sense or are missing, or a tower after the capsules, which is not computed
 * yet; ERR_FORMAT: a tensor is missing, has another shape or holds NaN; LIMIT, IO, NOMEM. */
struct model *model_open(const struct ckpt *c, const struct model_options *o, const char *dir,
                         struct err *err) WARN_UNUSED;
void model_free(struct model *m);

const struct model_options *model_options(const struct model *m); /* as completed from the shapes */
int model_interest_count(const struct model *m);                  /* K */
int model_dim(const struct model *m);              /* H, of interests and item vectors */
size_t model_rows(const struct model *m);          /* rows of the item table */
const float *model_vectors(const struct model *m); /* (rows, H), normalised if the options say so */
size_t model_memory(const struct model *m);        /* bytes, without model_view's */
/* The one tensor that may stay where it is: the item table, stored as the model needs it. The
 * checkpoint's bytes must outlive the model there, and nowhere else. NULL, *bytes 0: nowhere. */
const float *model_view(const struct model *m, size_t *bytes);

/* One user. `rows` oldest first, below model_rows, any number: the model truncates and orders. */
struct model_input {
    const uint32_t *rows;
    size_t n_rows;
    int dynamic;       /* enum model_dynamic to use instead of the model's, or -1 */
    float *interests;  /* out (K, H) */
    float *weights;    /* out (K, used) those of the last pass, in the order of `rows`; or NULL */
    size_t first_used; /* out: rows[first_used .. first_used + used) were used */
    size_t used;       /* out */
    int live;          /* out: K' <= K; interests beyond are zero */
};

/* Memory of one thread, for any model and any batch: it grows when it must (aborting when memory is
 * out), then stays, so a warm one never allocates. It belongs to no model, since a bundle may be
 * swapped under a worker. */
struct model_scratch;
struct model_scratch *model_scratch_new(void);
void model_scratch_free(struct model_scratch *s);
/* Any number of users; weights that depend on the position are read once for each block of up to
 * MODEL_BATCH of them. Never fails. */
#define MODEL_BATCH 16
void model_interests(const struct model *m, struct model_scratch *s, struct model_input *in,
                     size_t n);

#endif
