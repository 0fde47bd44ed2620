"""Where an image was cropped from, by trying every place."""

import torch
import torch.nn.functional as F  # noqa: N812


def position(before, after, padding):
    """(row, column, flipped) with which ``after`` is a crop of ``before`` padded with zeros."""
    padded = F.pad(before, [padding] * 4)
    height, width = before.shape[-2:]
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + height, column : column + width]
            for flipped in (False, True):
                if torch.equal(crop.flip(-1) if flipped else crop, after):
                    return row, column, flipped
    return None
