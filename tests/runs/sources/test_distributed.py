"""Checkpoints of several processes, each of which holds a part of every tensor."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from layerscope.probes import DistanceFromInitialisation, WeightChange, measure_all
from layerscope.runs.sources.descriptions import RefusedError
from layerscope.runs.sources.distributed import Chunk, _check_tiling
from layerscope.runs.store import Run


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3), nn.BatchNorm1d(3))


def worker(rank, port, folder):
    """Train under FSDP2 in two processes; the first one also saves the whole weights."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": step}
        dcp.save({"app": state}, checkpoint_id=f"{folder}/step-{step}")
        whole = get_model_state_dict(
            model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        if rank == 0:
            torch.save(whole, f"{folder}/whole{step}")
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_shards_of_two_processes_are_the_whole_model(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    whole = {step: torch.load(tmp_path / f"whole{step}") for step in range(3)}
    files = sorted(path.name for path in (tmp_path / "step-1").iterdir())
    assert files == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    run = Run.from_checkpoints(tmp_path / "run", f"{tmp_path}/step-*", network())
    memory = Run.from_checkpoints(tmp_path / "memory", whole, network())
    imported = run.manifest["notes"]["imported"]
    assert (imported["format"], imported["key"]) == ("distributed checkpoint", "app.model")
    for step, state in whole.items():
        assert {*run.checkpoint(step)} == {*state}
        assert all(torch.equal(run.checkpoint(step)[n], v) for n, v in state.items())
    probes = [WeightChange(), DistanceFromInitialisation()]
    found, expected = measure_all(probes, run), measure_all(probes, memory)
    assert all(found[probe.key].equals(expected[probe.key]) for probe in probes)
    assert float(found["weight_change"]["change"].min()) > 0


CHUNKS = {
    "along the first": ([((0, 0), (3, 4)), ((3, 0), (2, 4))], (5, 4), False),
    "a grid": (
        [((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (3, 2)), ((2, 2), (3, 2))],
        (5, 4),
        False,
    ),
    "the same twice": ([((0,), (10,)), ((0,), (10,))], (20,), True),
    "shifted": ([((0, 0), (2, 4)), ((1, 0), (2, 4))], (4, 4), True),
    "across": ([((0, 0), (4, 2)), ((0, 1), (4, 2))], (4, 4), True),
    "one number twice": ([((), ()), ((), ())], (), True),
}


@pytest.mark.parametrize(("places", "size", "refused"), CHUNKS.values(), ids=CHUNKS)
def test_chunks_make_up_a_tensor_or_are_refused(places, size, refused):
    chunks = [Chunk(o, n, "__0_0.distcp", 100 * i, 10) for i, (o, n) in enumerate(places)]
    with pytest.raises(RefusedError) if refused else nullcontext():
        _check_tiling("w", size, chunks)


def test_chunks_have_bytes_of_their_own():
    chunks = [Chunk((i,), (1,), "__0_0.distcp", 0, 10) for i in range(2)]
    with pytest.raises(RefusedError, match="overlap"):
        _check_tiling("w", (2,), chunks)
