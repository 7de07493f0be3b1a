/* test_file.c - files mapped, loaded, read, and replaced in one step. */
#include "recalld/base.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char *dir; /* removed at the end */

static char *in_dir(const char *name)
{
    return path_join(dir, name);
}

static int make_dir(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    dir = path_join(tmp != NULL ? tmp : P_tmpdir, "recalld-test-XXXXXX");
    return mkdtemp(dir) == NULL ? -1 : 0;
}

/* Tests leave plain files and the folders of one of them. */
static int remove_dir(void **state)
{
    static const char *const folders[] = {"a/b/c", "a/b", "a"};
    DIR *open_dir = opendir(dir);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        char *path = in_dir(folders[i]);

        rmdir(path);
        free(path);
    }
    for (struct dirent *e; (e = readdir(open_dir)) != NULL;)
        unlinkat(dirfd(open_dir), e->d_name, 0);
    closedir(open_dir);
    rmdir(dir);
    free(dir);
    return 0;
}

static void what_is_written_can_be_read_and_mapped(void **state)
{
    char *path = in_dir("data");
    struct err err = ERR_INIT;
    struct buf b = BUF_INIT;
    struct mapped m;

    (void)state;
    assert_int_equal(file_write(path, "hello\0you", 9, &err), 0);
    buf_puts(&b, "> ");
    assert_int_equal(file_read(path, 9, &b, &err), 0);
    assert_int_equal(b.len, 11);
    assert_memory_equal(b.p, "> hello\0you", 11);
    assert_int_equal(file_map(&m, path, &err), 0);
    assert_int_equal(m.len, 9);
    assert_memory_equal(m.bytes, "hello\0you", 9);
    file_unmap(&m);
    assert_null(m.bytes);
    file_unmap(&m);
    buf_clear(&b);
    free(path);
}

static void a_write_replaces_the_file_and_leaves_nothing_beside_it(void **state)
{
    char *path = in_dir("replaced");
    struct err err = ERR_INIT;
    struct mapped old;
    struct stat st;
    DIR *open_dir;

    (void)state;
    assert_int_equal(file_write(path, "old", 3, &err), 0);
    assert_int_equal(file_map(&old, path, &err), 0);
    assert_int_equal(file_write(path, "newer", 5, &err), 0);
    assert_memory_equal(old.bytes, "old", 3); /* a reader of the old file is not disturbed */
    file_unmap(&old);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 5);
    open_dir = opendir(dir);
    for (struct dirent *e; (e = readdir(open_dir)) != NULL;)
        assert_null(strstr(e->d_name, ".tmp"));
    closedir(open_dir);
    free(path);
}

static void a_file_that_cannot_be_written_is_an_error_with_its_path(void **state)
{
    char *path = in_dir("no/such/folder/file"), *folder = in_dir("taken");
    struct err err = ERR_INIT;
    DIR *open_dir;

    (void)state;
    assert_int_equal(file_write(path, "x", 1, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_memory_equal(err.text, path, strlen(path));
    err_clear(&err);
    assert_int_equal(mkdir(folder, 0777), 0);
    assert_int_equal(file_write(folder, "x", 1, &err), -1); /* written, but not renamed */
    assert_int_equal(err.code, ERR_IO);
    open_dir = opendir(dir);
    for (struct dirent *e; (e = readdir(open_dir)) != NULL;)
        assert_null(strstr(e->d_name, ".tmp"));
    closedir(open_dir);
    rmdir(folder);
    free(folder);
    free(path);
}

static void an_empty_file_has_no_bytes(void **state)
{
    char *path = in_dir("empty");
    struct err err = ERR_INIT;
    struct mapped m = {(const uint8_t *)"x", 1};

    (void)state;
    assert_int_equal(file_write(path, NULL, 0, &err), 0);
    assert_int_equal(file_map(&m, path, &err), 0);
    assert_null(m.bytes);
    assert_int_equal(m.len, 0);
    m = (struct mapped){(const uint8_t *)"x", 1};
    assert_int_equal(file_load(&m, path, &err), 0);
    assert_null(m.bytes);
    assert_int_equal(m.len, 0);
    free(path);
}

static void loaded_bytes_stay_whatever_becomes_of_the_file(void **state)
{
    char *path = in_dir("loaded");
    struct err err = ERR_INIT;
    struct mapped m;
    FILE *f;

    (void)state;
    assert_int_equal(file_write(path, "hello\0you", 9, &err), 0);
    assert_int_equal(file_load(&m, path, &err), 0);
    f = fopen(path, "r+");
    assert_int_equal(fwrite("other", 1, 5, f), 5); /* in place */
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), 2), 0);
    fclose(f);
    assert_int_equal(m.len, 9);
    assert_memory_equal(m.bytes, "hello\0you", 9);
    file_unmap(&m);
    assert_null(m.bytes);
    file_unmap(&m);
    free(path);
}

static bool is_mapped(const uint8_t *page)
{
    unsigned char resident;

    return mincore((void *)(uintptr_t)page, 1, &resident) == 0;
}

/* Of `pages` pages and a bit, keeps the bytes from `from` on. */
static void check_keep(const char *path, size_t from, size_t len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 8 * page + 100;
    size_t first = from / page, last = (from + len - 1) / page;
    uint8_t *bytes = xmalloc(size);
    struct err err = ERR_INIT;
    struct mapped m, all;

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 31 >> 4);
    assert_int_equal(file_write(path, bytes, size, &err), 0);
    assert_int_equal(file_load(&m, path, &err), 0);
    all = m;
    file_keep(&m, all.bytes + from, len);
    assert_memory_equal(all.bytes + from, bytes + from, len);
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(is_mapped(all.bytes + i * page), i >= first && i <= last);
    assert_int_equal(m.len, (last - first + 1) * page);
    file_unmap(&m);
    for (size_t i = 0; i < 9; i++)
        assert_false(is_mapped(all.bytes + i * page));
    free(bytes);
}

static void of_loaded_bytes_a_part_can_be_kept(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *path = in_dir("kept");

    (void)state;
    check_keep(path, 0, 8 * page + 100);
    check_keep(path, 0, 1);
    check_keep(path, page, page);
    check_keep(path, 3 * page + 7, 2 * page);
    check_keep(path, 5 * page - 1, 2);
    check_keep(path, 8 * page + 99, 1);
    free(path);
}

static void a_pipe_is_refused_without_waiting_for_its_writer(void **state)
{
    char *path = in_dir("pipe");
    struct err err = ERR_INIT;
    struct mapped m;

    (void)state;
    assert_int_equal(mkfifo(path, 0666), 0);
    assert_int_equal(file_load(&m, path, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, "pipe: not a regular file"));
    assert_null(m.bytes);
    free(path);
}

static void a_missing_file_is_told_from_an_unreadable_one(void **state)
{
    char *path = in_dir("missing");
    struct err err = ERR_INIT;
    struct buf b = BUF_INIT;
    struct mapped m;

    (void)state;
    assert_int_equal(file_load(&m, path, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    err_clear(&err);
    assert_int_equal(file_map(&m, path, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_memory_equal(err.text, path, strlen(path));
    assert_string_equal(err.text + strlen(path), ": cannot open: No such file or directory");
    err_clear(&err);
    assert_int_equal(file_read(path, 10, &b, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    err_clear(&err);
    assert_int_equal(file_map(&m, dir, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, ": not a regular file"));
    err_clear(&err);
    assert_int_equal(file_read(dir, 10, &b, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, ": cannot read: "));
    buf_clear(&b);
    free(path);
}

static void a_file_longer_than_the_limit_is_refused(void **state)
{
    char *path = in_dir("long");
    struct err err = ERR_INIT;
    struct buf b = BUF_INIT;
    char bytes[200000];

    (void)state;
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(file_write(path, bytes, sizeof bytes, &err), 0);
    assert_int_equal(file_read(path, sizeof bytes - 1, &b, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_string_equal(err.text + strlen(path), ": more than 199999 bytes");
    assert_int_equal(b.len, 0);
    err_clear(&err);
    assert_int_equal(file_read(path, sizeof bytes, &b, &err), 0);
    assert_int_equal(b.len, sizeof bytes);
    buf_clear(&b);
    free(path);
}

static void folders_are_made_with_their_parents_and_may_exist(void **state)
{
    char *path = in_dir("a/b/c"), *slash = in_dir("a/b/c/"), *file = in_dir("file");
    char *below = in_dir("file/x");
    struct err err = ERR_INIT;
    struct stat st;

    (void)state;
    assert_int_equal(file_mkdirs(path, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    assert_int_equal(file_mkdirs(slash, &err), 0);
    assert_int_equal(file_write(file, "x", 1, &err), 0);
    assert_int_equal(file_mkdirs(below, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, "/file: is in the way: not a folder"));
    free(path);
    free(slash);
    free(file);
    free(below);
}

static void assert_joined(const char *a, const char *b, const char *wanted)
{
    char *joined = path_join(a, b);

    assert_string_equal(joined, wanted);
    free(joined);
}

static void paths_are_joined_with_one_slash(void **state)
{
    (void)state;
    assert_joined("dir", "name", "dir/name");
    assert_joined("dir/", "name", "dir/name");
    assert_joined("dir", "/name", "/name");
    assert_joined("", "name", "name");
    assert_joined("/", "name", "/name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_can_be_read_and_mapped),
        cmocka_unit_test(a_write_replaces_the_file_and_leaves_nothing_beside_it),
        cmocka_unit_test(a_file_that_cannot_be_written_is_an_error_with_its_path),
        cmocka_unit_test(an_empty_file_has_no_bytes),
        cmocka_unit_test(loaded_bytes_stay_whatever_becomes_of_the_file),
        cmocka_unit_test(of_loaded_bytes_a_part_can_be_kept),
        cmocka_unit_test(a_pipe_is_refused_without_waiting_for_its_writer),
        cmocka_unit_test(a_missing_file_is_told_from_an_unreadable_one),
        cmocka_unit_test(a_file_longer_than_the_limit_is_refused),
        cmocka_unit_test(folders_are_made_with_their_parents_and_may_exist),
        cmocka_unit_test(paths_are_joined_with_one_slash),
    };

    return cmocka_run_group_tests_name("file", tests, make_dir, remove_dir);
}
