"""Slow, obvious twin of block contributions: walk through the blocks, read each one out.

Chen, Yuille and Zhou, "Which Layer is Learning Faster?", Section 5. The paper writes T(T_l(...))
for every block, which counts the bias of T once per block; here it counts once, in the first.
"""

from __future__ import annotations

import torch


def linear_part(readout, h):
    """``W h`` of the affine ``T(h) = W h + c``, as ``T(h) - T(0)``."""
    return readout(h) - readout(torch.zeros_like(h))


def contributions(readout, blocks, z):
    """What every block adds to ``y = T(z_L)``, with ``z_l = z_{l-1} + T_l(z_{l-1})``.

    ``[T(z_1), W T_2(z_1), ..., W T_L(z_{L-1})]``; their sum is y. The first holds what enters the
    blocks, the first block and the bias.

    Args:
        readout: T, affine.
        blocks: T_1 to T_L, each the branch alone, without the shortcut.
        z: z_0 (examples, width), what enters the first block.
    """
    z = z + blocks[0](z)
    found = [readout(z)]
    for block in blocks[1:]:
        branch = block(z)
        found.append(linear_part(readout, branch))
        z = z + branch
    return found


def output(readout, blocks, z):
    """y itself."""
    for block in blocks:
        z = z + block(z)
    return readout(z)
