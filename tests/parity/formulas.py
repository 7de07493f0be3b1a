"""Routing and attention as the codebases define them, over the operations of any framework.

B users, K interests, S slots, H dimensions; u (B, K, S, H), b (1 or B, K, S), mask (B, S).
`ops` has softmax(x, axis), sum(x, axis, keep), sqrt(x) and at_least(x, floor)."""

MASKED = -4294967296.0  # -2^32 + 1, which float32 does not have
AXES = {"I": 1, "Q": 2}  # over the interests, over the slots


def squash(ops, z, eps):
    n = ops.sum(z * z, -1, True)
    return n / (1 + n) / ops.sqrt(n + eps) * z


def gather(ops, w, u):
    return ops.sum(w[:, :, :, None] * u, 2, False)


def agreement(ops, u, v):
    return ops.sum(u * v[:, :, None, :], 3, False)


def masked(x, mask, value=MASKED):
    return x * mask + (1 - mask) * value


def clip(ops, d):
    """d / max(|d|, 1), the norm over the slots"""
    return d / ops.at_least(ops.sqrt(ops.sum(d * d, 2, True)), 1.0)


def route(ops, u, b, mask, axes, mask_before=False, eps=1e-9, clipped=False):
    """An axis of `axes` per pass; the logits are updated after each but the last."""
    mask = mask[:, None, :]
    for i, axis in enumerate(axes):
        w = ops.softmax(masked(b, mask) if mask_before else b, AXES[axis])
        v = squash(ops, gather(ops, w if mask_before else w * mask, u), eps)
        if i < len(axes) - 1:
            d = agreement(ops, u, v)
            b = b + (clip(ops, d) if clipped else d)
    return v


def attend(ops, a, mask, values):
    """a (B, S, K), values (B, S, D)"""
    w = ops.softmax(masked(a, mask[:, :, None]), 1)
    return ops.sum(w[:, :, :, None] * values[:, :, None, :], 1, False)


def map_positions(ops, w, e):
    """u of a map for each slot: w (1, S, K*H, D), e (B, S, D), to (B, S, K*H)."""
    return ops.sum(w * e[:, :, None, :], 3, False)
