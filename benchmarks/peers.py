r"""Second moments of every matrix as other libraries make them, brought to one convention.

The convention is that of `layerscope.networks.factors` with ``places="patches"``: means over rows,
of gradients of an example's own loss. With P places of a convolution's output, and 1 of a linear
layer's in a fully connected network:

* curvlinops (empirical Fisher, "expand"): the same inputs; gradients are summed over places, P
  times the mean;
* nngeometry, given the loss with the labels of the data as its function: inputs are summed over
  places, P times the mean; the same gradients;
* BackPACK's KFLR, all classes in turn: the same for linear layers, the only ones compared.

Where a library joins a bias to a matrix, its input has a column of ones more; the networks here
have no biases in layers, so that all measure the same matrices.

``python -m benchmarks.peers MODEL LIBRARY`` prints by how many MiB the resident set
grows, at most; Linux only.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.matrices import WORK, Batch
from torch import Tensor, nn

from layerscope.models.blocks import StridedPointwise
from layerscope.networks.factors import collect
from layerscope.networks.likelihood import Fisher
from layerscope.networks.task import Task

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Second moments of inputs and of output gradients, by name of a module."""
Spectra = Mapping[str, tuple[Tensor, Tensor]]
"""Their eigenvalues, descending."""
Work = Callable[[], Any]
TASK = Task.classification()


class Strided(nn.Sequential):
    """A 1x1 convolution with a stride as two modules that every library knows."""

    def __init__(self, conv: StridedPointwise) -> None:
        plain = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None)
        plain.weight = conv.weight
        super().__init__(plain)
        self.steps = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.steps
        return super().forward(x[:, :, ::down, ::across])


def prepared(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Batch]:
    """A network of `WORK` in training mode, of plain modules, layers without biases."""
    model, (x, y) = WORK[name]()
    for owner in list(model.modules()):
        for key, child in owner.named_children():
            if isinstance(child, StridedPointwise):
                setattr(owner, key, Strided(child))
    for module in layers(model).values():
        module.register_parameter("bias", None)
    return model.to(dtype).train(), (x.to(dtype) if x.is_floating_point() else x, y)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions that are called as modules, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith("self_attn.out_proj")
    }


def places(model: nn.Module, batch: Batch) -> dict[str, int]:
    """Rows per loss at the output of every layer: places of an image, 1 per token."""
    found: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def count(module: nn.Module, _: Any, output: Tensor) -> None:
            found[name] = output.numel() // len(module.weight) // batch[1].numel()

        return count

    handles = [one.register_forward_hook(hook(name)) for name, one in layers(model).items()]
    with torch.no_grad():
        model(batch[0])
    for handle in handles:
        handle.remove()
    return found


class Layerscope:
    """`collect`, and the eigenvalues that `Conditioning` takes of it."""

    fisher: Fisher = "empirical"

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.weights = {f"{name}.weight" for name in layers(model)}

    def factors(self) -> Any:
        return collect(
            self.model,
            [self.batch],
            TASK,
            self.fisher,
            among=self.weights,
            training=True,
            places="patches",
            most=8192,
        )

    def spectra(self, found: Any) -> Spectra:
        return {
            use.weight.removesuffix(".weight"): (
                one.input.eigenvalues()[0],
                one.gradient.eigenvalues()[0],
            )
            for use, one in found.items()
        }


class LayerscopeExact(Layerscope):
    """The same of all classes in turn."""

    fisher: Fisher = "exact"


class Curvlinops:
    """`KFACLinearOperator`, without the products with vectors that it is made for."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        from curvlinops import KFACLinearOperator

        self.make = KFACLinearOperator
        self.model, self.batch = model, batch
        self.weights = [module.weight for module in layers(model).values()]
        self.places = places(model, batch)

    def factors(self) -> Pairs:
        made = self.make(
            self.model,
            nn.CrossEntropyLoss(),
            self.weights,
            [self.batch],
            fisher_type="empirical",
            check_deterministic=False,
            num_data=len(self.batch[0]),
            num_per_example_loss_terms=self.batch[1][0].numel(),
        )
        made.compute_kronecker_factors()
        inputs, gradients = made._input_covariances, made._gradient_covariances
        return {name: (inputs[name], gradients[name]) for name in self.places}

    def spectra(self, found: Pairs) -> Spectra:
        return {
            name: (eigenvalues(x), eigenvalues(g) / self.places[name])
            for name, (x, g) in found.items()
        }


class Whole(torch.utils.data.Dataset):
    """A batch as a data set, handed out in one piece."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch[0])

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [self.batch[0].detach(), self.batch[1]]


class NNGeometry:
    """`PMatKFAC` of the losses with the labels of the data."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        from nngeometry.backend import TorchHooksJacobianBackend
        from nngeometry.layercollection import LayerCollection
        from nngeometry.object import PMatKFAC

        self.make = PMatKFAC
        self.places = places(model, batch)
        known = LayerCollection()
        for module in layers(model).values():
            known.add_layer_from_model(model, module)
        for name in known.layers:  # which says whether there is a bias, not which
            known.layers[name].bias = None

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(model(x), y, reduction="none")[:, None]

        self.backend = TorchHooksJacobianBackend(model, loss, layer_collection=known)
        self.loader = torch.utils.data.DataLoader(
            Whole(batch), batch_size=len(batch[0]), collate_fn=lambda found: found
        )

    def factors(self) -> Pairs:
        return self.make(generator=self.backend, examples=self.loader).data

    def spectra(self, found: Pairs) -> Spectra:
        return {
            name: (eigenvalues(x) / self.places[name], eigenvalues(g))
            for name, (x, g) in found.items()
        }


class BackPACK:
    """The extension `KFLR`."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        from backpack import backpack, extend
        from backpack.extensions import KFLR

        if any(isinstance(module, nn.Embedding) for module in model.modules()):
            raise NotImplementedError("Embedding; 64 GiB for all tokens")
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.inside, self.extension = backpack, KFLR
        self.batch = batch
        self.model, self.loss = extend(model), extend(nn.CrossEntropyLoss())

    def factors(self) -> Pairs:
        self.model.zero_grad()
        x, y = self.batch
        with self.inside(self.extension()):
            self.loss(self.model(x), y).backward()
        return {name: one.weight.kflr[::-1] for name, one in layers(self.model).items()}

    def spectra(self, found: Pairs) -> Spectra:
        return {name: (eigenvalues(x), eigenvalues(g)) for name, (x, g) in found.items()}


def eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix).flip(0)


PEERS = {
    "curvlinops": (Curvlinops, Layerscope, "empirical"),
    "nngeometry": (NNGeometry, Layerscope, "empirical"),
    "backpack": (BackPACK, LayerscopeExact, "exact"),
}
"""By the name under which it is imported: a library, what it is compared with, whose labels."""
LIBRARIES: dict[str, Any] = {
    **{name: peer for name, (peer, _, _) in PEERS.items()},
    "layerscope": Layerscope,
    "layerscope exact": LayerscopeExact,
}


def name_of(work: type) -> str:
    return next(name for name, one in LIBRARIES.items() if one is work)


def difference(found: Spectra, expected: Spectra) -> float:
    """Of all eigenvalues the largest difference, over the largest eigenvalue of the matrix."""
    assert found.keys() == expected.keys()
    return max(
        float((a - b).abs().max() / b.max())
        for name in expected
        for a, b in zip(found[name], expected[name], strict=True)
    )


def resident(which: str) -> float:
    """The resident set as Linux counts it, MiB: ``"VmRSS"`` now, ``"VmHWM"`` the largest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=WORK)
    parser.add_argument("library", choices=LIBRARIES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    first = LIBRARIES[given.library](*prepared("MLP 8x24"))
    first.spectra(first.factors())  # loads what is loaded at first use
    one = LIBRARIES[given.library](*prepared(given.model))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest begins anew
    one.spectra(one.factors())
    print(f"{resident('VmHWM') - before:.0f}")


if __name__ == "__main__":
    main()
