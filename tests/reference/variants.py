"""The plain loop: load the weights of a variant, evaluate, repeat."""

import torch

from layerscope.isolation import unique_state


def evaluate(model, variants, data, task):
    """Losses and correctness (variants, examples) of every variant; the model ends as it began."""
    base = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    found = []
    model.eval()
    for variant in variants:
        with torch.no_grad():
            for name, tensor in unique_state(model).items():
                tensor.copy_(variant.get(name, base[name]))
            outputs = [(task.forward(model, batch), batch) for batch in data]
            losses = torch.cat([task.losses(o, b) for o, b in outputs]).double()
            correct = torch.cat([task.correct(o, b) for o, b in outputs])
            found.append((losses, correct))
    with torch.no_grad():
        for name, tensor in unique_state(model).items():
            tensor.copy_(base[name])
    return torch.stack([x for x, _ in found]), torch.stack([c for _, c in found])
