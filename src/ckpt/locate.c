/* locate.c - which file is meant by the path of a checkpoint that consists of several. */
#include "format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STATE_MAX 65536

static bool is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* dir/name when there is such a file, otherwise NULL. */
static char *file_in(const char *dir, const char *name)
{
    char *path = path_join(dir, name);

    if (is_file(path))
        return path;
    free(path);
    return NULL;
}

/* The file `checkpoint` is a text that begins with: model_checkpoint_path: "name" */
static char *latest(const char *dir, const char *state, struct err *err)
{
    static const char before[] = "model_checkpoint_path: \"";
    struct buf text = BUF_INIT;
    char *start, *end, *path = NULL, *name;

    if (file_read(state, STATE_MAX, &text, err) == -1) {
        buf_clear(&text);
        return NULL;
    }
    buf_cstr(&text);
    start = strncmp(text.p, before, sizeof before - 1) == 0 ? text.p + sizeof before - 1 : NULL;
    end = start == NULL ? NULL : strchr(start, '"');
    if (end == NULL) {
        err_set(err, ERR_FORMAT, "%s: does not begin with %s", state, before);
    } else {
        name = xasprintf("%.*s.index", (int)(end - start), start);
        path = name[0] == '/' ? xstrdup(name) : path_join(dir, name);
        free(name);
    }
    buf_clear(&text);
    return path;
}

static char *in_folder(const char *dir, struct err *err)
{
    char *path = file_in(dir, "variables/variables.index"), *state;

    if (path != NULL)
        return path;
    if ((state = file_in(dir, "checkpoint")) != NULL) {
        path = latest(dir, state, err);
        free(state);
        return path;
    }
    if ((path = file_in(dir, ".metadata")) != NULL || (path = file_in(dir, "__0_0.distcp"))) {
        free(path);
        err_set(err, ERR_FORMAT,
                "%s: recognised as torch.distributed.checkpoint, which is not read: python3 -m "
                "torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE.pt makes a file "
                "that is",
                dir);
        return NULL;
    }
    err_set(err, ERR_FORMAT,
            "%s: a folder with neither variables/variables.index (a SavedModel) nor checkpoint "
            "(TensorFlow's note of the latest)",
            dir);
    return NULL;
}

char *ckpt_locate(const char *path, struct err *err)
{
    struct stat st;
    char *index;

    if (stat(path, &st) == 0)
        return S_ISDIR(st.st_mode) ? in_folder(path, err) : xstrdup(path);
    index = xasprintf("%s.index", path);
    if (is_file(index))
        return index;
    free(index);
    return xstrdup(path); /* opening it says what is wrong */
}
