/* hash.c - hashes of bytes: XXH3 where speed counts, SHA-256 where files are compared. */
#include "recalld/base.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t len)
{
    return XXH3_64bits(bytes, len);
}

struct hash *hash_new(void)
{
    XXH3_state_t *state = XXH3_createState();

    if (state == NULL || XXH3_64bits_reset(state) == XXH_ERROR) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return (struct hash *)state;
}

void hash_add(struct hash *h, const void *bytes, size_t len)
{
    if (len > 0)
        (void)XXH3_64bits_update((XXH3_state_t *)h, bytes, len);
}

uint64_t hash_end(struct hash *h)
{
    uint64_t sum = XXH3_64bits_digest((XXH3_state_t *)h);

    XXH3_freeState((XXH3_state_t *)h);
    return sum;
}

static void put_hex(const unsigned char *sum, unsigned n, char hex[SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < n; i++) {
        hex[2 * i] = digits[sum[i] >> 4];
        hex[2 * i + 1] = digits[sum[i] & 15];
    }
    hex[2 * n] = '\0';
}

void sha256_hex(const void *bytes, size_t len, char hex[SHA256_HEX])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n;

    if (EVP_Digest(len > 0 ? bytes : "", len, sum, &n, EVP_sha256(), NULL) != 1) {
        fputs("libcrypto cannot compute SHA-256\n", stderr);
        abort();
    }
    put_hex(sum, n, hex);
}

void hmac_sha256_hex(const void *key, size_t key_len, const void *bytes, size_t len,
                     char hex[SHA256_HEX])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n;

    if (HMAC(EVP_sha256(), key, (int)key_len, bytes, len, sum, &n) == NULL) {
        fputs("libcrypto cannot compute HMAC-SHA256\n", stderr);
        abort();
    }
    put_hex(sum, n, hex);
}
