"""Revisions of a model on the Hugging Face hub: ``hub:EleutherAI/pythia-14m-seed7@step*``.

A revision is a branch or tag. What is kept of one is its commit, so that it stays the same. Files
of weights, safetensors where there are any, are fetched when they are measured first, into the
cache of ``huggingface_hub``. With ``HF_HUB_OFFLINE=1`` nothing is asked for, and revisions and
files are those in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import preview
from layerscope.runs.sources.opening import FOLDERS, is_checkpoint_folder
from layerscope.runs.sources.sharded import INDEX, part_names

PREFIX = "hub:"


class Revision(NamedTuple):
    """A state of a model on the hub.

    Attributes:
        repository: ``owner/name``.
        name: Branch or tag.
        commit: What it pointed to when it was looked up.
    """

    repository: str
    name: str
    commit: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}@{self.name}"


def revisions(text: str) -> list[Revision]:
    """The revisions that ``hub:owner/name@pattern`` means, by name.

    Raises:
        LayerscopeError: The text is no such, nothing matches, or the hub cannot be asked.
    """
    repository, _, pattern = text.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")) or not pattern:
        raise LayerscopeError(
            f"{text!r} names no revisions on the hub.", f'Write "{PREFIX}owner/name@step*".'
        )
    known = dict(_cached_refs(repository) if _offline() else _listed_refs(repository))
    found = [
        Revision(repository, name, commit)
        for name, commit in sorted(known.items())
        if fnmatchcase(name, pattern)
    ]
    if not found:
        where = "in the cache, and HF_HUB_OFFLINE is set" if _offline() else "on the hub"
        raise LayerscopeError(
            f"no revision of {repository} {where} matches {pattern!r}.",
            f"There are {preview(sorted(known)) or 'none'}.",
        )
    return found


def fetch(revision: Revision) -> Path:
    """The folder with the weights of a revision; what is not in the cache is downloaded.

    Raises:
        LayerscopeError: It has no weights of a known format, or cannot be had.
    """
    if (folder := cached(revision)) is not None:
        return folder
    if _offline():
        raise LayerscopeError(
            f"the weights of {revision} are not in the cache, and HF_HUB_OFFLINE is set.",
            "Unset HF_HUB_OFFLINE to download them, or leave this revision out.",
        )
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = HfApi().list_repo_files(revision.repository, revision=revision.commit)
        wanted = _weights(names)
        if wanted:
            snapshot_download(revision.repository, revision=revision.commit, allow_patterns=wanted)
    except Exception as error:  # network, permissions, disk: the library's errors are many
        raise _unreachable(str(revision), error) from error
    if (folder := cached(revision)) is None:
        raise LayerscopeError(
            f"{revision} holds no weights of a known format: {preview(names)}.",
            f"Choose revisions with {', '.join(FOLDERS)} or an index of shards.",
        )
    return folder


def cached(revision: Revision) -> Path | None:
    """The folder of a revision in the cache, if all of its weights are there."""
    folder = _storage(revision.repository) / "snapshots" / revision.commit
    if not is_checkpoint_folder(folder):
        return None
    indices = [p for name in FOLDERS if (p := folder / f"{name}{INDEX}").exists()]
    parts = [folder / name for index in indices for name in part_names(index)]
    return folder if all(part.exists() for part in parts) else None


def _weights(names: Iterable[str]) -> list[str]:
    """Of the files of a revision those that hold its weights."""
    known = {*names}
    for name in FOLDERS:
        if name in known:
            return [name]
        if f"{name}{INDEX}" in known:
            stem, suffix = name.rsplit(".", 1)
            return [f"{name}{INDEX}", f"{stem}-*-of-*.{suffix}"]
    return []


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _storage(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _cached_refs(repository: str) -> Iterator[tuple[str, str]]:
    folder = _storage(repository) / "refs"
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_text().strip()


def _listed_refs(repository: str) -> Iterator[tuple[str, str]]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository)
    except Exception as error:  # network, permissions: the library's errors are many
        raise _unreachable(f"{PREFIX}{repository}", error) from error
    for ref in (*refs.branches, *refs.tags):
        yield ref.name, ref.target_commit


def _unreachable(what: str, error: Exception) -> LayerscopeError:
    return LayerscopeError(
        f"cannot get {what}: {error}.",
        "Check its name, the network, and whether access needs huggingface-cli login; "
        "HF_HUB_OFFLINE=1 takes what the cache has.",
    )
