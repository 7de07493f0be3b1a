/* config.c - the daemon's configuration from its three sources: file, environment, arguments. */
#include "options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)1 << 20)

/* ---- unknown names ------------------------------------------------------------- */

/* Levenshtein's distance, row by row. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_LEN + 1], n = strlen(b);

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j + 1] + 1 < best)
                best = row[j + 1] + 1;
            row[j + 1] = best;
        }
    }
    return row[n];
}

/* The key one probably meant: its name nearly so, or the same word in another section. */
static const struct key *key_meant(const struct keys *keys, const char *name)
{
    const struct key *nearest = NULL;
    const char *word = strchr(name, '.');
    size_t least = 4; /* distances below are typing errors */

    if (strlen(name) >= NAME_MAX_LEN)
        return NULL;
    for (size_t i = 0; i < keys->n; i++) {
        size_t distance = edit_distance(name, keys->list[i].name);

        if (distance < least) {
            least = distance;
            nearest = &keys->list[i];
        }
    }
    for (size_t i = 0; i < keys->n && nearest == NULL && word != NULL; i++)
        if (strcmp(strchr(keys->list[i].name, '.'), word) == 0)
            nearest = &keys->list[i];
    return nearest;
}

static int refuse_unknown(const struct keys *keys, const char *name, struct err *err)
{
    const struct key *meant = key_meant(keys, name);

    if (meant == NULL)
        return err_set(err, ERR_USAGE, "unknown key %.80s", name);
    return err_set(err, ERR_USAGE, "unknown key %.80s; did you mean %s?", name, meant->name);
}

/* ---- the file ------------------------------------------------------------------ */

struct ini {
    const char *name;
    int line;
    char section[NAME_MAX_LEN]; /* "" before the first */
    int given[KEYS_MAX];        /* the line that set a key, 0 = none */
};

static char *trimmed(const char *s, size_t len)
{
    while (len > 0 && (*s == ' ' || *s == '\t'))
        s++, len--;
    while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t'))
        len--;
    return xstrndup(s, len);
}

static bool is_section(const struct keys *keys, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < keys->n; i++)
        if (strncmp(keys->list[i].name, name, len) == 0 && keys->list[i].name[len] == '.')
            return true;
    return false;
}

static int enter_section(struct ini *ini, const struct keys *keys, char *text, struct err *err)
{
    size_t len = strlen(text);

    if (text[len - 1] != ']')
        return err_set(err, ERR_FORMAT, "%s:%d: a section's name ends with ]", ini->name,
                       ini->line);
    text[len - 1] = '\0';
    if (!is_section(keys, text + 1))
        return err_set(err, ERR_USAGE, "%s:%d: unknown section [%.80s]", ini->name, ini->line,
                       text + 1);
    snprintf(ini->section, sizeof ini->section, "%s", text + 1);
    return 0;
}

static int set_from_line(struct config *c, const struct keys *keys, struct ini *ini,
                         const char *word, const char *value, struct err *err)
{
    char *name = xasprintf("%s.%s", ini->section, word);
    const struct key *key = key_find(keys, name);
    int result = -1, *given;

    if (key == NULL) {
        refuse_unknown(keys, name, err);
        err_prefix(err, "%s:%d: ", ini->name, ini->line);
    } else if (*(given = &ini->given[key - keys->list]) != 0) {
        err_set(err, ERR_USAGE, "%s:%d: %s is given twice, first in line %d", ini->name, ini->line,
                name, *given);
    } else {
        *given = ini->line;
        result = key_set(c, key, value, err);
        if (result == -1)
            err_prefix(err, "%s:%d: %s = %.80s: ", ini->name, ini->line, name, value);
    }
    free(name);
    return result;
}

static int read_assignment(struct config *c, const struct keys *keys, struct ini *ini,
                           const char *text, struct err *err)
{
    const char *equals = strchr(text, '=');
    char *word, *value;
    int result;

    if (equals == NULL)
        return err_set(err, ERR_FORMAT, "%s:%d: neither [section] nor key = value", ini->name,
                       ini->line);
    if (ini->section[0] == '\0')
        return err_set(err, ERR_FORMAT, "%s:%d: a key before the first [section]", ini->name,
                       ini->line);
    word = trimmed(text, (size_t)(equals - text));
    value = trimmed(equals + 1, strlen(equals + 1));
    result = set_from_line(c, keys, ini, word, value, err);
    free(word);
    free(value);
    return result;
}

static int read_line(struct config *c, const struct keys *keys, struct ini *ini, const char *line,
                     size_t len, struct err *err)
{
    char *text;
    int result = 0;

    if (memchr(line, '\0', len) != NULL)
        return err_set(err, ERR_FORMAT, "%s:%d: a NUL byte", ini->name, ini->line);
    text = trimmed(line, len);
    if (text[0] == '[')
        result = enter_section(ini, keys, text, err);
    else if (text[0] != '\0' && text[0] != '#' && text[0] != ';')
        result = read_assignment(c, keys, ini, text, err);
    free(text);
    return result;
}

static int read_file(struct config *c, const struct keys *keys, const char *name, const char *text,
                     size_t len, struct err *err)
{
    struct ini ini = {name, 0, "", {0}};
    struct reader r;
    const char *line;
    size_t line_len;

    reader_init(&r, name, text, len);
    while (reader_line(&r, &line, &line_len)) {
        ini.line++;
        if (read_line(c, keys, &ini, line, line_len, err) == -1)
            return -1;
    }
    return 0;
}

/* ---- environment and arguments ------------------------------------------------- */

#define ENV_PREFIX "RECALLD_"

/* Variables that scripts use; the daemon does not read them. */
static const char *const foreign[] = {"RECALLD_BIN"};

static bool is_foreign(const char *variable)
{
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
        if (strcmp(variable, foreign[i]) == 0)
            return true;
    return false;
}

/* http.port_file <-> RECALLD_HTTP_PORT_FILE */
static const struct key *key_of_variable(const struct keys *keys, const char *variable)
{
    const char *rest = variable + strlen(ENV_PREFIX);

    for (size_t i = 0; i < keys->n; i++) {
        const char *name = keys->list[i].name;
        size_t j = 0;

        while (name[j] != '\0' && rest[j] == (name[j] == '.' ? '_' : toupper(name[j])))
            j++;
        if (name[j] == '\0' && rest[j] == '\0')
            return &keys->list[i];
    }
    return NULL;
}

static int set_from_variable(struct config *c, const struct keys *keys, const char *entry,
                             struct err *err)
{
    const char *equals = strchr(entry, '=');
    const struct key *key;
    char *variable;
    int result = 0;

    if (equals == NULL || strncmp(entry, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
        return 0;
    variable = xstrndup(entry, (size_t)(equals - entry));
    key = key_of_variable(keys, variable);
    if (key != NULL) {
        result = key_set(c, key, equals + 1, err);
        if (result == -1)
            err_prefix(err, "%s = %.80s: ", variable, equals + 1);
    } else if (!is_foreign(variable)) {
        result = err_set(err, ERR_USAGE, "%.80s: no key has this variable", variable);
    }
    free(variable);
    return result;
}

static int set_from_argument(struct config *c, const struct keys *keys, const char *arg,
                             struct err *err)
{
    const char *equals = strchr(arg, '=');
    const struct key *key;
    int result;
    char *name;

    if (strncmp(arg, "--", 2) != 0 || equals == NULL)
        return err_set(err, ERR_USAGE, "%.80s: not --section.key=value", arg);
    name = xstrndup(arg + 2, (size_t)(equals - arg - 2));
    key = key_find(keys, name);
    if (key == NULL) {
        result = refuse_unknown(keys, name, err);
        err_prefix(err, "%.80s: ", arg);
    } else {
        result = key_set(c, key, equals + 1, err);
        if (result == -1)
            err_prefix(err, "%.120s: ", arg);
    }
    free(name);
    return result;
}

/* ---- loading ------------------------------------------------------------------- */

static int check_together(const struct config *c, struct err *err)
{
    if (c->recall.n > c->recall_n_max)
        return err_set(err, ERR_USAGE, "recall.n = %d: must not exceed recall.n_max = %d",
                       c->recall.n, c->recall_n_max);
    if (c->journal_user == JOURNAL_USER_HMAC && c->journal_user_key_file[0] == '\0')
        return err_set(err, ERR_USAGE,
                       "journal.user = hmac: journal.user_key_file must name a file with the key");
    return 0;
}

struct config *config_parse(const char *name, const char *text, size_t len, char *const *env,
                            const char *const *args, int n_args, struct err *err)
{
    struct config *c = xcalloc(1, sizeof *c);
    struct keys keys;

    keys_init(&keys);
    keys_set_defaults(c, &keys);
    if (read_file(c, &keys, name, text, len, err) == -1)
        goto failed;
    for (; env != NULL && *env != NULL; env++)
        if (set_from_variable(c, &keys, *env, err) == -1)
            goto failed;
    for (int i = 0; i < n_args; i++)
        if (set_from_argument(c, &keys, args[i], err) == -1)
            goto failed;
    if (check_together(c, err) == -1)
        goto failed;
    return c;
failed:
    config_free(c);
    return NULL;
}

struct config *config_load(const char *path, char *const *env, const char *const *args, int n_args,
                           struct err *err)
{
    struct buf text = BUF_INIT;
    struct config *c = NULL;

    if (path == NULL || file_read(path, FILE_MAX, &text, err) == 0)
        c = config_parse(path, text.p, text.len, env, args, n_args, err);
    buf_clear(&text);
    return c;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    options_free_strings(c);
    free(c);
}
