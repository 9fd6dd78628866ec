"""Users for workers, where the server is root: each worker has one of its own, and a group of the same number."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Final

from posthouse.errors import Refused

UNUSED: Final = range(60_706, 61_184)
"""User ids that no system gives to anybody. Source: systemd, docs/UIDS-GIDS.md."""
GPU_DEVICES: Final = ("/dev/nvidia*", "/dev/dri/*", "/dev/kfd")
CHECK_S: Final = 30.0
"""How long a Python that does nothing may take to start, in seconds."""


def chosen(wanted: str, hidden: bool, root: Path) -> tuple[range, str]:
    """The user ids that workers below `root` get, and why there are none although there should be.

    `wanted`: as in the settings. `hidden`: the data directory is hidden from workers in any case. Raises: Refused.
    """
    is_root = os.geteuid() == 0
    if wanted == "server" or (wanted == "auto" and (hidden or not is_root)):
        return range(0), ""
    if not is_root:
        raise Refused(f"users: {wanted} needs a server that runs as root; `server` lets workers run as its own user")
    ids = UNUSED
    if wanted != "auto":
        first, last = map(int, wanted.split("-"))
        if not 0 < first <= last < 2**32 - 2:
            raise Refused(f"users: {wanted} must be two user ids, the lower one first and neither 0")
        ids = range(first, last + 1)
    if problem := _obstacle(root, ids[0]):
        if wanted != "auto":
            raise Refused(f"users: {wanted} cannot be used here: {problem}")
        return range(0), problem
    return ids, ""


def free(ids: range, root: Path) -> int:
    """A user id that no worker has, of whatever provider of this server, and no process of this machine.

    Raises: Refused.
    """
    taken = set()
    for path in [*root.parent.glob("workers*"), *root.parent.glob("workers*/*"), *Path("/proc").glob("[0-9]*")]:
        with suppress(FileNotFoundError):
            found = path.stat()
            taken |= {found.st_uid, found.st_gid}
    if (uid := next((uid for uid in ids if uid not in taken), None)) is None:
        raise Refused(f"users: {ids.start}-{ids.stop - 1} are all taken; destroy instances, or give more")
    return uid


def groups(root: Path) -> list[int]:
    """The groups of a worker beside its own: the one that may pass through to `root`, and those of GPUs; never root."""
    paths = [str(root), *(path for pattern in GPU_DEVICES for path in glob(pattern))]
    return sorted({os.stat(path).st_gid for path in paths} - {0})


def make_directory(path: Path, uid: int) -> None:
    """Makes the directory of an instance. `uid`: who may pass through it beside its owner, if not 0."""
    path.mkdir(mode=0o700)
    if uid:
        allow_traversal(path, uid)


def allow_traversal(directory: Path, group: int) -> None:
    """Lets a group pass through a directory of ours, and neither list nor change it."""
    os.chown(directory, -1, group)
    directory.chmod(0o710)


def _obstacle(root: Path, uid: int) -> str:
    """Why the user cannot run workers below `root`; empty if it can. It may pass through to there from now on."""
    try:
        for directory in (root.parent, root):
            if not directory.stat().st_mode & 0o010:  # else workers run that are of this group
                allow_traversal(directory, uid)
        return _failure(["-c", "import os, sys; os.stat(sys.argv[1])", f"{root}/."], uid, groups(root))
    except (OSError, subprocess.SubprocessError) as error:  # not among the ids of this container, or Python is closed
        return f"user {uid} cannot run {sys.executable}: {error}"


def _failure(arguments: Sequence[str], uid: int, extra: Sequence[int]) -> str:
    """The last line of what Python says when that user runs it so; empty if it does not fail."""
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-I", "-S", *arguments],
        user=uid,
        group=uid,
        extra_groups=extra,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=CHECK_S,
        check=False,
    )
    said = done.stderr.strip().rpartition("\n")[2]
    return f"user {uid}: {said or f'exit code {done.returncode}'}" if done.returncode else ""
