"""Where a run was made: versions, machine and revision, for its manifest."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("layerscope", "torch", "numpy", "xarray", "lightning-fabric", "safetensors")


def now() -> str:
    """The present moment, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_revision() -> str:
    """Revision of the repository in the working folder, with ``+`` where it has changes."""
    try:
        revision, changes = (
            subprocess.run(
                ("git", *arguments), capture_output=True, text=True, check=True, timeout=5
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "-uno"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return revision + ("+" if changes else "")


@lru_cache
def package_version(package: str) -> str:
    """Version of an installed package; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def describe(device: str = "cpu") -> dict[str, str]:
    """Versions of what computes, the machine and the revision; empty where unknown."""
    return {
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "device": device,
        "git_revision": git_revision(),
    }
