"""What Posthouse is for, with workers on a box that is reached by ssh."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.kit.live import end_workers
from tests.kit.site import ONSTART, Site, until
from tests.kit.ssh_server import SshServer, ssh_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, server: SshServer) -> Iterator[Site]:
    table = server.host(dir=str(tmp_path / "box"))
    host = "\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
    (tmp_path / "posthouse.toml").write_text(f"""
default_provider = "boxes"
[engine]
tick_s = 0.2
stabilization_s = 1
[providers.boxes]
type = "ssh"
poll_s = 0.5
catalog_s = 0.5
grace_s = 1
[[providers.boxes.hosts]]
{host}
""")
    made = Site(tmp_path)
    yield made
    made.clear()
    end_workers(tmp_path / "box")


def ask(site: Site) -> str:
    done = site.run("request", "llm", "Hi", "--max-new-tokens", "4", "--timeout", "100")
    return done.stdout or done.stderr


@pytest.mark.long
def test_a_request_is_answered_by_a_box_also_while_neither_it_nor_the_server_before_can_be_asked(
    site: Site, server: SshServer
) -> None:
    facts = site.start()
    site.environ["POSTHOUSE_API_KEY"] = (site.directory / "posthouse-data" / "admin-key").read_text().strip()
    (site.directory / "onstart.sh").write_text(ONSTART)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    site.json("endpoint", "create", "llm", "--min-load", "0", "--cold-workers", "0", "--max-workers", "1")
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm")
    assert ask(site) == "a demo model: it\n"
    [before] = site.json("worker", "list")
    server.kill()
    until(lambda: "box a: cannot be reached" in site.run("status").stdout)
    assert ask(site) == "a demo model: it\n"
    site.stop(signal.SIGKILL)
    site.start("--port", str(urlsplit(facts["url"]).port))
    assert ask(site) == "a demo model: it\n"
    server.start()
    until(lambda: "cannot be reached" not in site.run("status").stdout)
    [after] = site.json("worker", "list")
    assert (after["id"], after["url"], after["state"]) == (before["id"], before["url"], "idle")
    site.json("endpoint", "delete", "llm", "--wait", "--timeout", "100")
    assert [path.name for path in (site.directory / "box" / "workers").iterdir()] == [".ended"]
