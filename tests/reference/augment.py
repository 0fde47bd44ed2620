"""Where an image was cropped from, by trying every place."""

import torch
import torch.nn.functional as F  # noqa: N812


def reflected(image, padding):
    """The image with ``padding`` rows and columns on every side, mirrored at the outermost ones."""
    for dim in (-2, -1):
        last = image.shape[dim] - 1
        places = [abs(i) for i in range(-padding, last + 1)]
        places += [last - i for i in range(1, padding + 1)]
        image = torch.stack([image.select(dim, place) for place in places], dim)
    return image


def places(before, after, padding, reflect=False):
    """Every (row, column, flipped) with which ``after`` is a crop of ``before`` padded."""
    padded = reflected(before, padding) if reflect else F.pad(before, [padding] * 4)
    height, width = before.shape[-2:]
    found = []
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            crop = padded[:, row : row + height, column : column + width]
            for flipped in (False, True):
                if torch.equal(crop.flip(-1) if flipped else crop, after):
                    found.append((row, column, flipped))
    return found
