"""The networks for small images from their weights, one operation after the other."""

import torch
import torch.nn.functional as F  # noqa: N812


def normalised(x, how, groups):
    """Zero mean and unit variance of what is normalised together."""
    if how == "batch":
        rows = x.transpose(0, 1).flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / (
            rows.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        return rows.view(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)
    sets = {"layer": 1, "group": groups, "instance": x.shape[1]}[how]
    rows = x.reshape(len(x), sets, -1)
    rows = (rows - rows.mean(2, keepdim=True)) / (
        rows.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    return rows.view(x.shape)


def padded(x, channels, stride):
    """Every ``stride``-th pixel, and channels of zeros behind those that are there."""
    x = x[:, :, ::stride, ::stride]
    zeros = torch.zeros(len(x), channels - x.shape[1], *x.shape[2:], dtype=x.dtype)
    return torch.cat([x, zeros], 1)


def outputs(weights, x, blocks, kind, normalisation, groups, last_norm, divisor):
    """What a network in train mode says, from its parameters by name."""

    def norm(name, x, how=normalisation):
        if how == "none":
            return x
        weight, bias = (weights[f"{name}.{key}"].view(-1, 1, 1) for key in ("weight", "bias"))
        return normalised(x, how, groups) * weight + bias

    def conv(name, x, stride=1):
        return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), stride, 1)

    early = kind.startswith("pre")
    x = conv("stage0.conv", x)
    if not early:
        x = norm("stage0.norm", x).relu()
    for stage in (1, 2, 3):
        for i in range(blocks):
            stride = 2 if stage > 1 and i == 0 else 1
            if kind == "plain":
                for name in (f"stage{stage}.conv{2 * i + 1}", f"stage{stage}.conv{2 * i + 2}"):
                    x, stride = norm(f"{name}.norm", conv(f"{name}.conv", x, stride)).relu(), 1
                continue
            name = f"stage{stage}.resblk{i + 1}"
            z = norm(f"{name}.preactivation.norm", x).relu() if early else x
            shortcut = z if i == 0 else x
            y = norm(f"{name}.body.norm1", conv(f"{name}.body.conv1", z, stride)).relu()
            y = conv(f"{name}.body.conv2", y)
            if not early:
                y = norm(f"{name}.body.norm2", y)
            x = y + padded(shortcut, y.shape[1], stride)
            x = x if early else x.relu()
    if kind == "preresnet":
        x = norm("final_norm", x)
    x = x.relu()
    if last_norm == "pooling":
        x = norm("last_norm", x, "batch")
    x = x.mean((2, 3), keepdim=True)
    if last_norm == "linear":
        x = norm("last_norm", x, "batch")
    x = x.flatten(1) / divisor
    return x @ weights["final_linear.weight"].T + weights["final_linear.bias"]
