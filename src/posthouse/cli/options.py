"""Options that many commands have, and the client that they lead to."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from posthouse.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from posthouse.client import Client

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="POSTHOUSE_URL",
        help="Address of the server. If it has its own root certificate: a file in $POSTHOUSE_CA.",
        hidden=True,  # the same for all: `posthouse --help` has it once
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="POSTHOUSE_API_KEY",
        help="Key for the server. One on this machine is also reached with the key in posthouse-data/admin-key.",
        hidden=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.", show_default="posthouse-data")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file, in TOML.",
        show_default="posthouse.toml, if there is one",
    ),
]

ADMIN_KEY_FILE = "admin-key"
"""In the data directory: the first admin key, so that commands on the same machine need none."""
ROOT_FILE = "authority.cer"
"""In the data directory: the root of the server's certificate, if that is its own."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def connect(url: str | None, api_key: str | None) -> "Client":
    """A client of the server at `url`. Use it as a context."""
    from posthouse.client import Client

    data_dir, where = _data_dir(url), "--api-key"
    if data_dir is not None and not api_key:
        where = str(data_dir / ADMIN_KEY_FILE)
        with suppress(OSError):
            api_key = (data_dir / ADMIN_KEY_FILE).read_text(encoding="latin-1").strip()
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise BadRequest(f"{where} has no key but other text: put the file back from a backup, or give another key")
    return Client(url, api_key, ca=own_root(url))


def own_root(url: str | None) -> Path | None:
    """The root of the certificate of a server on this machine, if it is its own and the environment names no other."""
    data_dir = _data_dir(url)
    root = data_dir / ROOT_FILE if data_dir is not None else None
    return root if root is not None and not os.environ.get("POSTHOUSE_CA") and root.is_file() else None


def _data_dir(url: str | None) -> Path | None:
    """The data directory of a server on this machine; no other server is sent the key in it."""
    with suppress(ValueError):  # not a URL, which the client says better
        if not url or urlsplit(url).hostname in LOCAL_HOSTS:
            return Path(os.environ.get("POSTHOUSE_DATA_DIR") or "posthouse-data")
    return None


def names(list_rows: "Callable[[Client], Iterable[object]]", field: str) -> "Callable[[str], list[str]]":
    """What completes a name: asks the server of the environment, and completes nothing where that fails."""

    def complete(incomplete: str) -> list[str]:
        with suppress(Exception), connect(None, None) as client:
            found = (str(getattr(row, field)) for row in list_rows(client))
            return [name for name in found if name.startswith(incomplete)]
        return []

    return complete


endpoint_names = names(lambda client: client.endpoints(), "endpoint_name")
template_names = names(lambda client: client.templates(), "name")
worker_ids = names(lambda client: client.workers(), "id")
group_ids = names(lambda client: client.workergroups(), "id")

Force = Annotated[bool, typer.Option("--force", help="Send it although it looks like a mistake.")]


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given. Raises: BadRequest if none was."""
    said = {name: value for name, value in fields.items() if value is not None}
    if not said:
        raise BadRequest("nothing to change: give at least one option, see --help")
    return said
