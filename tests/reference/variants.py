"""The plain loop: load the weights of a variant, evaluate, repeat."""

import torch

from layerscope.networks.names import unique_state


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


def recalibrate(model, weights, batch, task):
    """The weights, with the statistics that the batch gives under them."""

    def statistics(values):
        model.load_state_dict(values)
        model.eval()
        norms = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        seen = {}
        for name, norm in norms.items():
            norm.train()
            norm.register_forward_pre_hook(lambda _, x, n=name: seen.update({n: x[0].clone()}))
        task.forward(model, batch)
        found = {}
        for name, inputs in seen.items():
            rows = inputs.transpose(0, 1).flatten(1)
            found[f"{name}.running_mean"] = rows.mean(1)
            found[f"{name}.running_var"] = rows.var(1, correction=1)
        return found

    return weights | statistics(weights)
