/* logline.c - log lines to stderr, each written with a single write(2), so that lines of
 * several threads never mix and a line is either there or not. */
#include "recalld/base.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

static const char *const level_words[] = {"debug", "info", "warn", "error"};

static _Atomic int level_least = LOG_LEVEL_INFO;
static _Atomic bool as_json;

void log_setup(enum log_level least, bool json)
{
    atomic_store(&level_least, (int)least);
    atomic_store(&as_json, json);
}

/* What is quoted in a message may come from anywhere: it must neither start a second line nor
 * break the JSON. */
static void make_printable(char *text, size_t len)
{
    bool valid = utf8_valid(text, len);

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20 || c == 0x7f)
            text[i] = ' ';
        else if (c >= 0x80 && !valid)
            text[i] = '?';
    }
}

static void put_time(struct buf *line)
{
    int64_t ms = clock_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    struct tm t;

    gmtime_r(&seconds, &t);
    buf_printf(line, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", t.tm_year + 1900, t.tm_mon + 1,
               t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, (int)(ms % 1000));
}

static void put_text_line(struct buf *line, const char *level, const char *event,
                          const struct buf *text)
{
    put_time(line);
    buf_printf(line, " %-5s %s", level, event);
    if (text->len > 0)
        buf_putc(line, ' ');
    buf_put(line, text->p, text->len);
    buf_putc(line, '\n');
}

static void put_json_line(struct buf *line, const char *level, const char *event,
                          const struct buf *text)
{
    buf_puts(line, "{\"ts\":\"");
    put_time(line);
    buf_printf(line, "\",\"level\":\"%s\",\"event\":\"%s\",\"text\":", level, event);
    buf_json(line, text->p, text->len);
    buf_puts(line, "}\n");
}

void log_line(enum log_level level, const char *event, const char *fmt, ...)
{
    struct buf text = BUF_INIT, line = BUF_INIT;
    int saved = errno;
    va_list args;

    if ((int)level < atomic_load_explicit(&level_least, memory_order_relaxed))
        return;
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    make_printable(text.p, text.len);
    if (atomic_load_explicit(&as_json, memory_order_relaxed))
        put_json_line(&line, level_words[level], event, &text);
    else
        put_text_line(&line, level_words[level], event, &text);
    if (write(STDERR_FILENO, line.p, line.len) == -1) {
        /* Nobody is left to tell. */
    }
    buf_clear(&text);
    buf_clear(&line);
    errno = saved;
}

bool log_allow(struct log_limit *limit, unsigned *held)
{
    uint64_t now = clock_ns(), next = atomic_load(&limit->next_ns);

    if (now < next || !atomic_compare_exchange_strong(&limit->next_ns, &next, now + 1000000000)) {
        atomic_fetch_add(&limit->held, 1);
        return false;
    }
    *held = atomic_exchange(&limit->held, 0);
    return true;
}
