"""The agent for any image and any machine: this Python, this version of Posthouse and what they need, as an archive.

Nothing in it depends on where it is unpacked but `/bin/sh`: it brings its own loader and C library, too.
"""

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO, Final

import posthouse
from posthouse.errors import Refused

COMPLETE: Final = "complete"
"""The last file of the archive."""
LEFT_OUT: Final = re.compile(
    r"/(site-packages|dist-packages|test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|config-[^/]*)(/|$)"
    r"|/(_tkinter|_test\w*|_ctypes_test|xxlimited\w*)\.[^/]*$|\.a$|\.opt-[12]\.pyc$"
)
WRAPPER: Final = """\
#!/bin/sh
exec {root}/lib/{loader} --argv0 "$0" --library-path {root}/lib {root}/bin/{python} -E -s "$@"
"""


def version(also: Sequence[str] = ()) -> str:
    """A name for what the archive would hold. `also`: packages beside those that Posthouse needs without extras."""
    digest = hashlib.sha256(f"{sys.version} {platform.machine()} {' '.join(also)}".encode())
    for name, file in _own():
        if file.suffix != ".pyc":
            digest.update(name.encode() + file.read_bytes())
    return f"{posthouse.__version__}-{digest.hexdigest()[:12]}"


def archive(root: str, out: BinaryIO, instead: str, also: Sequence[str] = ()) -> None:
    """Writes the files to unpack at `root`. `instead`: the setting that does without. Raises: Refused on a system whose
    Python cannot be taken along."""
    if not sys.platform.startswith("linux") or (loader := _loader()) is None:
        raise Refused(f"agent: this server's Python cannot be taken along; set {instead}")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = f"lib/{python}"
    with tarfile.open(fileobj=out, mode="w") as tar:
        plain = list(_stdlib()) + list(_packages(also)) + list(_own())
        for name, file in plain:
            tar.add(file, f"{library}/{name}", recursive=False, filter=_owned_by_root)
        tar.add(os.path.realpath(sys.executable), f"bin/{python}", filter=_owned_by_root)
        programs = [Path(sys.executable), *(file for _, file in plain if ".so" in file.name)]
        for library_file in {loader, *_shared(programs, instead)}:
            tar.add(os.path.realpath(library_file), f"lib/{library_file.name}", filter=_owned_by_root)
        wrapper = WRAPPER.format(root=root, loader=loader.name, python=python)
        _write(tar, "bin/python3", wrapper.encode(), 0o755)
        _write(tar, COMPLETE, version(also).encode(), 0o644)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def _write(tar: tarfile.TarFile, name: str, text: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text), mode
    tar.addfile(member, io.BytesIO(text))


def _stdlib() -> Iterator[tuple[str, Path]]:
    """Every file of the standard library that an agent may need, by its name below it."""
    for place in dict.fromkeys((sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))):
        root = (
            Path(sys.base_prefix, os.path.relpath(place, sys.prefix)) if place.startswith(sys.prefix) else Path(place)
        )
        yield from _files(root)


def _own() -> Iterator[tuple[str, Path]]:
    root = Path(posthouse.__file__).parent
    return ((f"posthouse/{name}", file) for name, file in _files(root))


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, names in os.walk(root):
        below = os.path.relpath(folder, root)
        folders[:] = sorted(name for name in folders if not LEFT_OUT.search(f"/{name}/"))
        for name in sorted(names):
            file = Path(folder, name)
            if not LEFT_OUT.search(f"/{name}") and file.is_file():
                yield os.path.normpath(f"{below}/{name}"), file


def _packages(also: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Every file of these packages and of those that Posthouse needs without extras, and of all that they need."""
    todo = ["posthouse", *also]
    seen = set(todo)
    while todo:
        try:
            package = distribution(todo.pop())
        except PackageNotFoundError:  # for another system or Python
            continue
        if package.metadata["Name"] != "posthouse":
            for file in package.files or ():
                path = Path(str(package.locate_file(file)))
                if ".." not in file.parts and path.is_file() and not LEFT_OUT.search(f"/{file}"):
                    yield str(file), path
        for line in package.requires or ():
            name = re.match(r"[A-Za-z0-9._-]+", line)
            if name and "extra ==" not in line and (key := re.sub(r"[-_.]+", "-", name[0]).lower()) not in seen:
                seen.add(key)
                todo.append(key)


def _loader() -> Path | None:
    """The program that loads programs, as this Python names it."""
    found = re.search(rb"/lib[0-9a-z]*/(?:[^\0/]+/)?ld-linux[^\0/]*\.so\.[0-9]", Path(sys.executable).read_bytes())
    return Path(found[0].decode()) if found else None


def ldd(programs: Iterable[Path]) -> str:
    """What ldd says that programs load. Raises: OSError, SubprocessError."""
    return subprocess.run(  # noqa: S603 - our own files
        ["ldd", *map(str, programs)],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    ).stdout


def _shared(programs: Iterable[Path], instead: str) -> set[Path]:
    """The libraries that programs load from elsewhere than beside them. Raises: Refused."""
    try:
        found = {Path(path) for path in re.findall(r"=> (/\S+)", ldd(programs))}
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"agent: ldd does not work here ({error}); set {instead}") from error
    return {path for path in found if "-packages" not in str(path)}


def unpack(root: str, place: str) -> None:
    """Writes into `place` the files that are to be found at `root` later. Raises: as `archive`."""
    with tempfile.TemporaryFile() as out:
        archive(root, out, "agent to image")
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            tar.extractall(place, filter="tar")
