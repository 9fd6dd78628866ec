"""Runs programs that show a fault, each against a server of its own: `python -m tests.cases FOLDER [NAME...]`

A program is given POSTHOUSE_URL, POSTHOUSE_API_KEY, POSTHOUSE_DATA_DIR, PH, the command, and QUIET_DIR, a folder to
which nobody else writes, in memory where there is /dev/shm. It prints lines that begin with `ok` or `FAULT`, and exits
with 0 if all is well. Programs are named by a letter and a number. NAME: the beginning of a program's name. `--jobs 3`
runs three at once: some wait for twenty minutes.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PH = Path(sys.executable).with_name("posthouse")
START_S = 60.0
LIMIT_S = 1800.0
"""How long a program may take."""
SLOTS = "24"
MEMORY = Path("/dev/shm")


@contextmanager
def server(directory: Path) -> Iterator[dict[str, str]]:
    """A server with a data directory of its own; yields the environment that leads to it."""
    data, log = directory / "data", directory / "server.log"
    environ = {**os.environ, "POSTHOUSE_PROVIDERS__PROCESS__SLOTS": SLOTS, "POSTHOUSE_DATA_DIR": str(data)}
    with log.open("wb") as out:
        command = [str(PH), "serve", "--port", "0", "--json", "--data-dir", str(data)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, env=environ, text=True)
    try:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        if not greeting:
            raise SystemExit(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        url = greeting.split('"url": "')[1].split('"')[0]
        key = (data / "admin-key").read_text().strip()
        own = {"PH": str(PH), "PH_PYTHON": sys.executable, "SERVER_PID": str(process.pid)}
        yield {**environ, "POSTHOUSE_URL": url, "POSTHOUSE_API_KEY": key, **own}
    finally:
        subprocess.run([PH, "shutdown", "--workers", "--data-dir", data], capture_output=True, timeout=120, check=False)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def run(program: Path) -> bool:
    """Runs one program; true if it says that all is well."""
    began = time.monotonic()
    made = tempfile.TemporaryDirectory
    with (
        made(prefix="posthouse-case-") as directory,
        made(prefix="posthouse-case-", dir=MEMORY if MEMORY.is_dir() else None) as quiet,
        server(Path(directory)) as environ,
    ):
        environ["QUIET_DIR"] = quiet
        try:
            code = subprocess.run([sys.executable, program], env=environ, timeout=LIMIT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
            print(f"FAULT {program.stem}: not done after {LIMIT_S:g} s", flush=True)
    print(f"-- {program.stem}: {'ok' if code == 0 else 'FAULT'}, {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def names(folder: Path, *beginnings: str) -> list[str]:
    """Of the programs in a folder whose names begin so."""
    return sorted(path.stem for path in folder.glob("[a-z][0-9]*.py") if path.stem.startswith(beginnings or ("",)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    programs = names(asked.folder, *asked.names)
    if not programs:
        parser.error(f"there is no such program in {asked.folder}")
    with ThreadPoolExecutor(asked.jobs) as pool:
        well = pool.map(run, [asked.folder / f"{name}.py" for name in programs])
        bad = [name for name, is_well in zip(programs, well, strict=True) if not is_well]
    print(f"{len(programs) - len(bad)} of {len(programs)} are well{'; not: ' if bad else ''}{' '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
