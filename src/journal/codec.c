/* codec.c - zlib and zstd behind one way to read and one way to compress. */
#include "codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK ((size_t)256 << 10)
/* Ids and digits of scores have no patterns that a slower search would find: zstd makes 2.7 of it
 * at level 1 as at 4, in half the time. */
#define GZIP_LEVEL 1
#define ZSTD_LEVEL 1

/* ---- reading ------------------------------------------------------------------------------- */

struct codec_in {
    int fd;
    char *path;
    enum journal_compression form;
    uint64_t taken;
    uint8_t *bytes; /* (CHUNK), of which at..n are not used yet; unless JOURNAL_PLAIN */
    size_t at, n;
    bool end;     /* of the file */
    bool between; /* no compressed stream has begun, or the last one has ended */
    z_stream gzip;
    ZSTD_DStream *zstd;
};

static int damaged(const struct codec_in *in, struct err *err, const char *why)
{
    return err_set(err, ERR_FORMAT, "%s: %s", in->path, why);
}

static ssize_t read_some(struct codec_in *in, void *to, size_t room, struct err *err)
{
    ssize_t n;

    do
        n = read(in->fd, to, room);
    while (n == -1 && errno == EINTR);
    if (n == -1)
        return err_set(err, ERR_IO, "%s: cannot read: %s", in->path, strerror(errno));
    in->taken += (uint64_t)n;
    return n;
}

static int fill(struct codec_in *in, struct err *err)
{
    ssize_t n = read_some(in, in->bytes, CHUNK, err);

    if (n == -1)
        return -1;
    in->at = 0;
    in->n = (size_t)n;
    in->end = n == 0;
    return 0;
}

static int begin(struct codec_in *in, struct err *err)
{
    in->between = true;
    if (in->form == JOURNAL_GZIP && inflateInit2(&in->gzip, 15 + 16) != Z_OK)
        return err_set(err, ERR_NOMEM, "%s: no memory for gzip", in->path);
    if (in->form == JOURNAL_ZSTD && (in->zstd = ZSTD_createDStream()) == NULL)
        return err_set(err, ERR_NOMEM, "%s: no memory for zstd", in->path);
    return 0;
}

/* What a file is, its first bytes say: a name may have been changed. */
static enum journal_compression sniff(const uint8_t *p, size_t n)
{
    if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b)
        return JOURNAL_GZIP;
    if (n >= 4 && memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0)
        return JOURNAL_ZSTD;
    return JOURNAL_PLAIN;
}

struct codec_in *codec_in_open(const char *path, struct err *err)
{
    struct codec_in *in;
    uint8_t magic[4];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd == -1) {
        err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open: %s", path,
                strerror(errno));
        return NULL;
    }
    in = xcalloc(1, sizeof *in);
    in->fd = fd;
    in->path = xstrdup(path);
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    n = pread(fd, magic, sizeof magic, 0); /* fails on a pipe, which is plain then */
    in->form = n > 0 ? sniff(magic, (size_t)n) : JOURNAL_PLAIN;
    if (in->form != JOURNAL_PLAIN)
        in->bytes = xmalloc(CHUNK);
    if (begin(in, err) == 0)
        return in;
    codec_in_free(in);
    return NULL;
}

/* Takes from `bytes` and writes to `to`; returns how many were written. */
static ssize_t inflate_some(struct codec_in *in, uint8_t *to, size_t room, struct err *err)
{
    z_stream *z = &in->gzip;
    int got;

    z->next_in = in->bytes + in->at;
    z->avail_in = (uInt)(in->n - in->at);
    z->next_out = to;
    z->avail_out = (uInt)(room < CHUNK ? room : CHUNK);
    got = inflate(z, Z_NO_FLUSH);
    in->at = in->n - z->avail_in;
    if (got == Z_STREAM_END) {
        in->between = true; /* another may follow: files may be joined */
        inflateReset(z);
    } else if (got != Z_OK && got != Z_BUF_ERROR) {
        return damaged(in, err, "damaged gzip data");
    }
    return z->next_out - to;
}

static ssize_t unzstd_some(struct codec_in *in, uint8_t *to, size_t room, struct err *err)
{
    ZSTD_inBuffer from = {in->bytes, in->n, in->at};
    ZSTD_outBuffer out = {to, room, 0};
    size_t got = ZSTD_decompressStream(in->zstd, &out, &from);

    if (ZSTD_isError(got))
        return damaged(in, err, "damaged zstd data");
    in->at = from.pos;
    in->between = got == 0;
    return (ssize_t)out.pos;
}

ssize_t codec_in_read(struct codec_in *in, void *to, size_t room, struct err *err)
{
    ssize_t n = 0;

    if (in->form == JOURNAL_PLAIN)
        return read_some(in, to, room, err);
    while (n == 0) {
        if (in->at == in->n && !in->end && fill(in, err) == -1)
            return -1;
        if (in->end && in->between)
            return 0;
        if (!in->end)
            in->between = false;
        n = in->form == JOURNAL_GZIP ? inflate_some(in, to, room, err)
                                     : unzstd_some(in, to, room, err);
        if (n == 0 && in->end && !in->between)
            return damaged(in, err, "ends in the middle of compressed data");
    }
    return n;
}

uint64_t codec_in_taken(const struct codec_in *in)
{
    return in->taken;
}

void codec_in_free(struct codec_in *in)
{
    if (in == NULL)
        return;
    if (in->form == JOURNAL_GZIP)
        inflateEnd(&in->gzip);
    ZSTD_freeDStream(in->zstd);
    free(in->bytes);
    close(in->fd);
    free(in->path);
    free(in);
}

/* ---- compressing --------------------------------------------------------------------------- */

struct packer {
    struct file_out *out;
    uint8_t *plain, *packed; /* (CHUNK) */
    z_stream gzip;
    ZSTD_CStream *zstd;
};

static int pack_gzip(struct packer *p, size_t n, bool last, struct err *err)
{
    z_stream *z = &p->gzip;

    z->next_in = p->plain;
    z->avail_in = (uInt)n;
    do {
        z->next_out = p->packed;
        z->avail_out = (uInt)CHUNK;
        if (deflate(z, last ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
            return err_set(err, ERR_IO, "zlib cannot compress");
        if (file_out_put(p->out, p->packed, CHUNK - z->avail_out, err) == -1)
            return -1;
    } while (z->avail_out == 0);
    return 0;
}

static int pack_zstd(struct packer *p, size_t n, bool last, struct err *err)
{
    ZSTD_inBuffer from = {p->plain, n, 0};
    size_t left;

    do {
        ZSTD_outBuffer to = {p->packed, CHUNK, 0};

        left = ZSTD_compressStream2(p->zstd, &to, &from, last ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return err_set(err, ERR_IO, "zstd cannot compress: %s", ZSTD_getErrorName(left));
        if (file_out_put(p->out, p->packed, to.pos, err) == -1)
            return -1;
    } while (last ? left > 0 : from.pos < from.size);
    return 0;
}

/* 1 when all of `in` is compressed, 0 when told to stop. */
static int pack_all(struct packer *p, struct codec_in *in, enum journal_compression form,
                    const atomic_bool *stop, struct err *err)
{
    ssize_t n;

    do {
        if (atomic_load(stop))
            return 0;
        n = codec_in_read(in, p->plain, CHUNK, err);
        if (n == -1)
            return -1;
        if ((form == JOURNAL_GZIP ? pack_gzip(p, (size_t)n, n == 0, err)
                                  : pack_zstd(p, (size_t)n, n == 0, err)) == -1)
            return -1;
    } while (n > 0);
    return 1;
}

static int packer_init(struct packer *p, enum journal_compression form, struct err *err)
{
    if (form == JOURNAL_GZIP &&
        deflateInit2(&p->gzip, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return err_set(err, ERR_NOMEM, "no memory for gzip");
    if (form == JOURNAL_ZSTD) {
        p->zstd = ZSTD_createCStream();
        if (p->zstd == NULL)
            return err_set(err, ERR_NOMEM, "no memory for zstd");
        ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
        ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1);
    }
    p->plain = xmalloc(CHUNK);
    p->packed = xmalloc(CHUNK);
    return 0;
}

static void packer_clear(struct packer *p, enum journal_compression form)
{
    if (form == JOURNAL_GZIP)
        deflateEnd(&p->gzip);
    ZSTD_freeCStream(p->zstd);
    free(p->plain);
    free(p->packed);
}

int codec_pack(const char *from, const char *to, enum journal_compression form,
               const atomic_bool *stop, struct err *err)
{
    struct packer p = {0};
    struct codec_in *in = codec_in_open(from, err);
    int result = -1;

    if (in == NULL)
        return -1;
    if (packer_init(&p, form, err) == 0 && (p.out = file_out_new(to, err)) != NULL)
        result = pack_all(&p, in, form, stop, err);
    if (p.out != NULL && file_out_end(p.out, result == 1, err) == -1)
        result = -1;
    packer_clear(&p, form);
    codec_in_free(in);
    return result;
}
