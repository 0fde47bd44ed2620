"""What recording a GPT of 355 million parameters costs: ``python -m tests.large_model`` says."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from tests.memory import peak_bytes

from layerscope.networks.layers import LayerMap
from layerscope.probes import WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every, never

STEPS = 3
FULL, SAMPLED = WeightChange(), WeightChange(sample=4096)
WAYS = {"nothing": [], "a sample": [SAMPLED], "all weights": [FULL]}


def gpt() -> torch.nn.Module:
    """GPT-2 medium with random weights, in bfloat16."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=1024, n_layer=24, n_head=16, use_cache=False)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "ln_" in name else parameter.uniform_(-0.03, 0.03)
    return model.eval()  # no dropout, so that runs are alike


class Loop:
    """Training steps on one short text."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        self.ids = torch.randint(50_257, (1, 16), generator=torch.Generator().manual_seed(0))

    def run(self, recorder: Recorder | None = None) -> None:
        for _ in range(STEPS):
            loss = self.model(input_ids=self.ids, labels=self.ids).loss
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if recorder is not None:
                recorder.step(loss=loss.detach())
        self.optimizer.zero_grad(set_to_none=True)

    def recorded(self, probes: list[Any], layers: LayerMap, path: Path) -> Recorder:
        schedules = {"measure": every(1), "checkpoints": never()}
        with Recorder(self.model, path, probes=probes, layers=layers, **schedules) as recorder:
            self.run(recorder)
        return recorder


def costs(loop: Loop, folder: Path, ways: Iterable[str] = WAYS) -> dict[str, tuple[float, float]]:
    """Peak bytes and seconds of training with each way to record."""
    layers = LayerMap.from_model(loop.model, None)
    found = {}
    for name in ways:

        def train(name=name, probes=WAYS[name]) -> None:
            loop.recorded(probes, layers, folder / name) if probes else loop.run()

        start = time.perf_counter()
        peak = peak_bytes(train)
        found[name] = (peak, time.perf_counter() - start)
    return found


def errors(loop: Loop, folder: Path) -> xr.DataArray:
    """Relative error of the sampled ratio, by step and layer; NaN where a layer did not move."""
    layers = LayerMap.from_model(loop.model, None)
    run = loop.recorded([FULL, SAMPLED], layers, folder / "both").run
    full, sampled = (run.results(probe.key)["change"] for probe in (FULL, SAMPLED))
    return abs(sampled / full.where(full > 0) - 1)


if __name__ == "__main__":
    loop = Loop(gpt())
    n = sum(parameter.numel() for parameter in loop.model.parameters())
    print(f"{n:,} parameters, {2 * n / 2**20:,.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        measured = costs(loop, Path(folder))
        base, took = measured["nothing"]
        for name, (peak, seconds) in measured.items():
            extra = (peak - base) / 2**20
            print(f"{name}: {extra:+,.1f} MiB at the peak, {seconds:.1f} s ({took:.1f} s bare)")
        error = errors(loop, Path(folder))
    print(f"error of the ratio: median {float(error.median()):.2%}")
    worst = error.max("step").to_series().nlargest(4)
    print("largest:", ", ".join(f"{name} {value:.1%}" for name, value in worst.items()))
