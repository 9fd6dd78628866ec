"""Puts official clients that are no small dependencies before a gateway, unmodified, and records how each does.

`python -m tests.clients FOLDER`, or `make clients CLIENTS=FOLDER`: the folder has them; without one it tells what goes
there. The page is docs/reference/clients.md.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.kit.gateways import World, gateway_world

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "clients.md"
TINY = HERE.parents[1] / "examples" / "llama-cpp" / "tiny.py"
INSTALL = """no clients were tried: CLIENTS must be a folder in which they are installed, outside of this tree:
  npm install --prefix FOLDER openai
  python3 -m venv FOLDER/py && FOLDER/py/bin/pip install openai anthropic langchain-openai openai-agents"""
HEAD = """# Official clients

How unmodified clients do at a gateway, as `make clients` recorded it: before a stand-in that produces each odd thing,
and before llama.cpp's server on the CPU with a tiny model whose weights are random. OpenAI's and Anthropic's clients
for Python are tried by `make test`, too, in more detail. `-`: not tried, most often because there is no such call.

"""
LIMIT_S = 300


def tried(world: World, clients: Path) -> Iterator[dict[str, str]]:
    """A row for each case of each client."""
    arguments = [world.url, world.key, str(world.folder)]
    for argv in (
        ["node", str(HERE / "openai_node.mjs"), *arguments, str(clients)],
        [str(clients / "py" / "bin" / "python"), str(HERE / "python_clients.py"), *arguments],
    ):
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=True)
        yield from map(json.loads, done.stdout.splitlines())


def page(rows: Iterable[dict[str, str]]) -> str:
    """The table, in Markdown."""
    found = {(row["case"], row["client"]): row["wrong"] for row in rows}
    cases, clients = (list(dict.fromkeys(column)) for column in zip(*found, strict=True))
    lines = [f"| case | {' | '.join(clients)} |", f"| --- |{' --- |' * len(clients)}"]
    for case in cases:
        cells = [found.get((case, client)) for client in clients]
        words = ["-" if wrong is None else wrong.replace("|", "\\|") or "works" for wrong in cells]
        lines.append(f"| {case} | {' | '.join(words)} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    clients = Path(sys.argv[1]).absolute() if len(sys.argv) == 2 else None
    if clients is None or not (clients / "node_modules" / "openai").is_dir() or not (clients / "py").is_dir():
        print(INSTALL, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        site, engine = Path(folder, "site"), Path(folder, "engine")
        site.mkdir()
        engine.mkdir()
        with gateway_world(site, engine, "--keep-alive-s", "0.5") as world:
            model = world.folder / "tiny.gguf"
            subprocess.run([sys.executable, TINY, model], check=True)
            world.site.json("up", "llama", "--recipe", "llama.cpp", "--model", str(model), "--param", "slots=2")
            rows = list(tried(world, clients))
    PAGE.write_text(page(rows), encoding="utf-8")
    for row in rows:
        print(f"{row['client']:<28} {row['case']:<28} {row['wrong'] or 'works'}")
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
