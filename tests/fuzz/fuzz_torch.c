/* fuzz_torch.c - what torch.save writes: a zip file, or pickles and storages in a row. See ckpt.h
 * for what holds. */
#include "ckpt.h"

#define NAME "fuzz.pt"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem(NAME, bytes, len, &err);

    assert_checkpoint(c, &err, NAME);
    ckpt_free(c);
    return 0;
}
