"""Where an image set's files are: in a folder, under the data root, or on the Hugging Face hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from layerscope.config import DATA
from layerscope.data.cache import cache_folder, write_text
from layerscope.data.table import IMAGE_SETS, ImageSet, row_of
from layerscope.errors import LayerscopeError, unknown


@dataclass(frozen=True)
class Source:
    """A folder that holds an image set, and the table's row for it where there is one."""

    name: str
    folder: Path
    row: ImageSet | None


def locate(name: str, root: Path | None) -> Source:
    """Find the files of an image set, downloading them only when no local copy is found.

    A name of the table comes first, then an existing folder, then ``owner/name`` on the hub. For a
    name of the table or the hub, ``root/name``, ``root/basename`` and ``root/owner/basename`` are
    tried (``-`` and ``_`` interchangeable) before the hub.

    Args:
        name: Table name, folder, or hub name. A hub name that the table knows is the table's.
        root: Folder of local copies in hub layout, or None.

    Raises:
        LayerscopeError: The name is not known, ``root`` does not exist, or the hub cannot be used.
    """
    row = row_of(name)
    if row is None and Path(name).expanduser().is_dir():
        return Source(name, Path(name).expanduser().resolve(), None)
    if row is None:
        _require_hub_name(name)
    if root is not None and not root.is_dir():
        raise LayerscopeError(
            f"data root {root} does not exist.", "Mend --data-root or LAYERSCOPE_DATA."
        )
    hub = row.hub if row else name
    copies = _copies(row.name if row else None, hub, root or Path("<data root>"))
    for copy in copies:
        if root is not None and copy.is_dir():
            return Source(name, copy.resolve(), row)
    return Source(name, _download(hub, copies[0]), row)


def _require_hub_name(name: str) -> None:
    """Refuse what cannot be ``owner/name``: a mistyped table name or a folder that is not there."""
    if "/" not in name and "\\" not in name:
        raise unknown("data set", name, [*IMAGE_SETS, *DATA])
    owner, _, base = name.partition("/")
    if name.startswith((".", "~")) or not owner or not base or "/" in base or "\\" in name:
        raise LayerscopeError(
            f"data folder {name} does not exist.",
            "Give an existing folder, or owner/name on the Hugging Face hub.",
        )


def _copies(table_name: str | None, hub: str, root: Path) -> list[Path]:
    """Folders in which a local copy may lie, most likely first."""
    owner, base = hub.split("/")
    names = [table_name] if table_name else []
    names += [base, base.replace("-", "_"), base.replace("_", "-")]
    folders = [root / name for name in names] + [root / owner / name for name in names]
    return list(dict.fromkeys(folders))


def _download(hub: str, copy: Path) -> Path:
    """The folder of a hub set's files, downloading them the first time.

    The first complete download is recorded and used from then on without asking the network, so
    that a set does not change between two runs. Delete the record to fetch a newer revision.
    """
    record = cache_folder() / "hub" / f"{hub.replace('/', '--')}.txt"
    if record.is_file() and (folder := Path(record.read_text(encoding="utf-8"))).is_dir():
        return folder
    folder = _snapshot(hub, copy)
    write_text(record, str(folder))
    return folder


def _snapshot(hub: str, copy: Path) -> Path:
    """Download all files of a hub set.

    Raises:
        LayerscopeError: No network, no such set, or no right to read it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    offline = f"Put a copy in hub layout at {copy} (--data-root or LAYERSCOPE_DATA)"
    try:
        with _hub_progress():
            return Path(snapshot_download(hub, repo_type="dataset", etag_timeout=5))
    except GatedRepoError as error:
        raise LayerscopeError(
            f"{hub} needs its terms accepted on the Hugging Face hub.",
            f"Accept them at https://huggingface.co/datasets/{hub}, then run `hf auth login`. "
            f"Or: {offline}.",
        ) from error
    except RepositoryNotFoundError as error:
        raise LayerscopeError(
            f"the Hugging Face hub has no data set {hub}, or it is private.",
            "Check the spelling. A folder must exist to be taken as one.",
        ) from error
    except Exception as error:
        if not _is_network(error):
            raise
        raise LayerscopeError(
            f"{hub} is not on this machine and the Hugging Face hub cannot be reached.",
            f"{offline}. Or go online: check the network and that HF_HUB_OFFLINE is not set.",
        ) from error


def _is_network(error: Exception) -> bool:
    """Whether a download failed on the way; the HTTP client's errors share no public base."""
    from huggingface_hub.errors import HfHubHTTPError

    client = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | HfHubHTTPError) or client.startswith("httpx")


@contextmanager
def _hub_progress() -> Iterator[None]:
    """Download progress on a terminal only; the setting is left as found."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
