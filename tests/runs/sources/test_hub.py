"""Revisions on the hub: from a cache folder as the library lays it out, and from a server."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from layerscope.errors import LayerscopeError
from layerscope.probes import WeightChange, measure
from layerscope.runs.sources.hub import revisions
from layerscope.runs.store import Run

NAME = "hub:lab/small@"


def state(step):
    return {f"layer.{i}.weight": torch.full((2, 2), step + 1.0) for i in range(2)}


def commit(step):
    return f"{step:040x}"


def cache(folder, steps):
    """Revisions as snapshot_download leaves them: blobs, links to them, and refs."""
    root = folder / "models--lab--small"
    for step in steps:
        blob, snapshot = root / "blobs" / f"{step}", root / "snapshots" / commit(step)
        for path in (root / "blobs", snapshot, root / "refs"):
            path.mkdir(parents=True, exist_ok=True)
        save_file(state(step), blob)
        (snapshot / "model.safetensors").symlink_to(blob)
        (root / "refs" / f"step{step}").write_text(commit(step))
    (root / "refs" / "main").write_text(commit(steps[-1]))
    return root


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache(tmp_path / "hub", [0, 10, 200])


def test_revisions_in_the_cache_make_a_run(offline, tmp_path):
    run = Run.from_checkpoints(tmp_path / "run", f"{NAME}step*")
    assert run.steps == [0, 10, 200]
    assert [float(run.checkpoint(s)["layer.0.weight"][0, 0]) for s in run.steps] == [1, 11, 201]
    assert measure(WeightChange(), run).sizes["step"] == 2
    kept = json.loads((run.path / "checkpoints" / "000000010.json").read_text())
    assert kept["hub"] == ["lab/small", "step10", commit(10)]
    assert run.missing == ""


def test_what_is_not_in_the_cache_is_said_when_it_is_measured(offline, tmp_path):
    shutil.rmtree(offline / "snapshots" / commit(200))
    run = Run.from_checkpoints(tmp_path / "run", f"{NAME}step*")
    assert run.steps == [0, 10, 200]
    with pytest.raises(
        LayerscopeError, match=r"hub:lab/small@step200 are not in the cache.*\n.*Unset HF_HUB"
    ):
        measure(WeightChange(), run)
    assert len(run.checkpoint(10)) == 2


def test_a_revision_may_be_one_of_several_sources(offline, tmp_path):
    run = Run.from_checkpoints(tmp_path / "run", {0: state(0), 7: f"{NAME}step10"}, copy=True)
    shutil.rmtree(offline)
    assert float(run.checkpoint(7)["layer.0.weight"][0, 0]) == 11


WRONG = {
    f"{NAME}stop*": r"no revision of lab/small in the cache.*'stop\*'.\n.*main, step0, step10",
    "hub:lab/other@step*": r"no revision of lab/other in the cache.*\n.*There are none",
    "hub:small@step*": "names no revisions on the hub",
    "hub:lab/small": "names no revisions on the hub",
    f"{NAME}*": "hub:lab/small@main has no number",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_names_that_mean_nothing_say_what_there_is(offline, tmp_path, text, message):
    with pytest.raises(LayerscopeError, match=message):
        Run.from_checkpoints(tmp_path / "run", text)


def test_shards_that_are_missing_from_the_cache_are_not_taken_for_a_checkpoint(offline, tmp_path):
    snapshot = offline / "snapshots" / commit(200)
    (snapshot / "model.safetensors").unlink()
    index = {"weight_map": {"layer.0.weight": "model-00001-of-00001.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    run = Run.from_checkpoints(tmp_path / "run", f"{NAME}step*")
    with pytest.raises(LayerscopeError, match="step200 are not in the cache"):
        run.checkpoint(200)


class Server(BaseHTTPRequestHandler):
    """As much of the hub's interface as listing and downloading take."""

    asked: list[str]
    files: dict[str, bytes]

    def answer(self, body):
        parts = self.path.split("?")[0].strip("/").split("/")
        self.asked.append(self.path)
        values = None
        if self.path.endswith("/refs"):
            refs = [
                {"name": f"step{s}", "ref": f"refs/heads/step{s}", "targetCommit": commit(s)}
                for s in (0, 10)
            ]
            values = {"branches": refs, "tags": [], "converts": []}
        elif "/tree/" in self.path:
            names = ["README.md", "pytorch_model.bin", "model.safetensors"]
            values = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in names]
        elif "/revision/" in self.path:
            names = ["README.md", "pytorch_model.bin", "model.safetensors"]
            siblings = [{"rfilename": n} for n in names]
            values = {"id": "lab/small", "sha": parts[-1], "siblings": siblings}
        content = json.dumps(values).encode() if values is not None else None
        sha = ""
        if content is None and parts[-1] == "model.safetensors":
            sha, content = parts[-2], self.files[parts[-2]]
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        if sha:
            self.send_header("ETag", f'"{sha}"')
            self.send_header("X-Repo-Commit", sha)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    files = {}
    for step in (0, 10):
        save_file(state(step), tmp_path / "file")
        files[commit(step)] = (tmp_path / "file").read_bytes()
    handler = type("Handler", (Server,), {"asked": [], "files": files})
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{served.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield handler.asked
    served.shutdown()
    thread.join()
    served.server_close()


def test_revisions_are_downloaded_when_they_are_measured(server, tmp_path):
    assert [r.name for r in revisions(f"{NAME}step*")] == ["step0", "step10"]
    run = Run.from_checkpoints(tmp_path / "run", f"{NAME}step*")
    assert not any("resolve" in path and commit(10) in path for path in server)
    assert float(run.checkpoint(10)["layer.0.weight"][0, 0]) == 11
    assert any("resolve" in path and commit(10) in path for path in server)
    assert not any("README" in path or "pytorch_model" in path for path in server)
    before = len(server)
    assert measure(WeightChange(), run).sizes["step"] == 1
    assert len(server) == before


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LayerscopeError, match=r"cannot get hub:lab/small: .*\n.*HF_HUB_OFFLINE=1"):
        revisions(f"{NAME}step*")
