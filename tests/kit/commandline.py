"""The unmodified command line of the protocol, as a program of its own."""

import ast
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from tests.kit.forked import forker
from tests.kit.peers_at_home import AUTHORITY_DIR


class Commandline:
    """The program `vastai`, in a home of its own where it finds nothing to fetch from the internet."""

    def __init__(self, url: str, key: str, home: Path) -> None:
        cache = home / ".cache" / "vastai"
        cache.mkdir(parents=True)
        (cache / "gpu_names_cache.json").write_text('{"gpu_names": ["RTX 4090"]}')
        (cache / "gpu_types_cache.json").write_text('{"gpu_types": []}')
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VAST", "XDG"))}
        self._environment = kept | {"HOME": str(home), "VASTAI_NO_UPDATE_CHECK": "1"}
        self._program = str(Path(sys.executable).parent / "vastai")
        self._flags = [*([] if AUTHORITY_DIR else ["--url", url]), "--api-key", key]

    async def __call__(self, *words: str) -> str:
        """What the command prints; errors too, which it tells with the exit status 0."""
        # Of the peer only what does not look at its home, which `vastai.cli` does when it is imported.
        done = await asyncio.to_thread(
            forker("vastai").run, self._program, [*self._flags, *words], Path(), self._environment, None, 120
        )
        return done.stderr + done.stdout  # what is told in JSON comes last

    async def told(self, *words: str) -> Any:
        """The object at the end of what the command prints, in Python's spelling."""
        printed = await self(*words)
        return ast.literal_eval(printed[printed.index("{") :])
