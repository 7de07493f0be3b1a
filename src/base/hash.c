/* hash.c - hashes of bytes: XXH3 where speed counts, SHA-256 where files are compared. */
#include "recalld/base.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t len)
{
    return XXH3_64bits(bytes, len);
}

void sha256_hex(const void *bytes, size_t len, char hex[SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n;

    if (EVP_Digest(len > 0 ? bytes : "", len, sum, &n, EVP_sha256(), NULL) != 1) {
        fputs("libcrypto cannot compute SHA-256\n", stderr);
        abort();
    }
    for (unsigned i = 0; i < n; i++) {
        hex[2 * i] = digits[sum[i] >> 4];
        hex[2 * i + 1] = digits[sum[i] & 15];
    }
    hex[2 * n] = '\0';
}
