"""Disks that are soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size_mb: int) -> Iterator[Path]:
    """An empty directory on a disk of its own; skips the test where that cannot be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Fills the directory's disk to the last byte; returns the file to remove."""
    path = directory / "ballast"
    with path.open("wb", buffering=0) as ballast:
        for size in (1_000_000, 4096, 1):
            try:
                while ballast.write(bytes(size)):
                    pass
            except OSError:
                continue
    return path
