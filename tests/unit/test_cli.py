import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from posthouse import __version__
from posthouse import errors as domain
from posthouse.agent import AgentSettings, Benchmark
from posthouse.budget import Left
from posthouse.cli import app, main, output, serve
from posthouse.cli.explain import page
from posthouse.cli.input import find
from posthouse.cli.logs import new_lines
from posthouse.cli.output import log_text, one_line, printable
from posthouse.cli.request import print_events, text_of
from posthouse.client import (
    BadRequest,
    Busy,
    Client,
    ClientError,
    NotFound,
    TimedOut,
    Unauthorized,
    Unreachable,
    WorkerFailed,
)
from posthouse.domain.endpoint import PARAMETERS
from posthouse.engine.standing import money_left
from posthouse.wire import rows

AGENT = ["agent", "--upstream", "http://127.0.0.1:8000"]
WORKER = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": "secret",
    "REPORT_ADDR": "http://127.0.0.1:8080",
    "WORKER_PORT": "3000",
    "PUBLIC_IPADDR": "127.0.0.1",
    "VAST_TCP_PORT_3000": "3000",
}


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("POSTHOUSE_URL", "POSTHOUSE_API_KEY", "POSTHOUSE_DATA_DIR", "POSTHOUSE_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("posthouse.app.logs.configure_logging", lambda *form: None)


def answers(monkeypatch: pytest.MonkeyPatch, method: str, answer: Any) -> list[tuple[Any, ...]]:
    """Has the client's `method` give this answer, or raise it; the calls that it gets."""
    calls = []

    def call(_: Client, *args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs) if kwargs else args)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(Client, method, call)
    return calls


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    level: list[tuple[str, Any]] = [("", get_command(app))]
    for name, command in level:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name.strip(), command
        else:
            level.extend((f"{name} {word}", child) for word, child in inner.items())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClientError("broken"), 1),
        (WorkerFailed("no worker answers"), 1),
        (BadRequest("wrong"), 2),
        (Unauthorized("which key?"), 3),
        (NotFound("nothing here"), 4),
        (Unreachable("nobody there"), 5),
        (TimedOut("too late"), 6),
        (Busy("not now"), 7),
        (domain.BadRequest("wrong settings:\n  a\n  b"), 2),
        (domain.Refused("in use"), 1),
        (OSError(98, "Address in use"), 1),
        (ExceptionGroup("tasks", [OSError(28, "No space left")]), 1),
        (KeyError("a bug"), 1),
    ],
)
def test_every_error_has_its_exit_code_and_is_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "endpoints", error)
    assert main(["endpoint", "list"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_traceback_is_shown_to_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHOUSE_TRACEBACK", "1")
    answers(monkeypatch, "endpoints", KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        main(["endpoint", "list"])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["worker", "show", "x"], "Invalid value for 'WORKER': must be a valid integer, not 'x'"),
        (["logs", "a", "--tail", "0"], "Invalid value for '--tail': must be greater than or equal to 1, not '0'"),
        (["key", "create", "a", "--scope", "king"], "Invalid value for '--scope': 'king' is not one of 'route',"),
        (["template", "create", "missing"], "missing cannot be read: No such file or directory"),
        (["template", "create", "."], ". cannot be read: Is a directory"),
        (["template", "create", "bytes"], "bytes is not text in UTF-8"),
        (["template", "create", "deep"], "deep is not JSON that can be read: it is nested too deep"),
        (["template", "create", "/dev/zero"], "/dev/zero has more than 33554432 characters"),
        (["template", "create", "--name", "a", "--onstart", "bytes"], "bytes is not text in UTF-8"),
        (["request", "a", "{", "--path", "/x"], "the payload is not JSON: "),
        (["status", "--url", "nonsense"], "url is 'nonsense'; it must begin with http:// or https://"),
        (["serve", "--config", "bytes"], "the configuration file bytes is not TOML: "),
        (["replay", "bytes"], "bytes: not a file of kept events: "),
        (["simulate", "--trace", "bytes"], "bytes: is not a CSV file in UTF-8, plain or .gz: "),
    ],
)
def test_what_cannot_be_read_is_told_with_its_name_its_value_and_what_is_allowed(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xaa\x00" * 100)
    (tmp_path / "deep").write_text("[" * 100_000)
    assert main(argv) == 2
    assert capsys.readouterr().err.strip().startswith(f"error: {says}")


def test_a_server_that_is_not_there_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", "http://127.0.0.1:1"]) == 5
    said = "error: http://127.0.0.1:1 did not answer: connection refused; does `posthouse serve` run there?\n"
    assert capsys.readouterr().err == said


def test_the_admin_key_is_told_where_it_is_and_not_itself_where_a_file_may_keep_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for as_json in (False, True):
        serve._greet(SimpleNamespace(url="http://x", admin_key="ph_secret", gateway=None), tmp_path, as_json)  # type: ignore[arg-type]
        said = capsys.readouterr().out
        assert ("ph_secret" in said, "admin-key" in said) == (False, True)


def test_words_beyond_ascii_go_in_and_out_where_the_locale_has_none(tmp_path: Path) -> None:
    environ = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    said = []
    for name in ("größe/🚀", "größe"):  # in words, and as the name of a file
        command = [sys.executable, "-m", "posthouse", "init", name]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True)
        said.append((done.returncode, done.stderr.decode()))
    assert said == [
        (2, "error: NAME: must be the name of a folder to make here, not 'größe/🚀'\n"),
        (1, "error: größe: this locale has no such characters in names of files; set LC_ALL=C.UTF-8\n"),
    ]


def test_a_reader_that_goes_away_is_no_failure() -> None:
    command = [sys.executable, "-m", "posthouse", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, "endpoints", KeyboardInterrupt())
    assert main(["endpoint", "list"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nope", "No such command 'nope'"),
        ("endpoint lst", "Did you mean 'list'"),
        ("endpoint list --nope", "--nope"),
        ("endpoint show", "ENDPOINT"),
        ("endpoint create x --max-usd-h much", "neither a number nor none"),
        ("endpoint update x", "nothing to change"),
        ("endpoint update x --state gone", "'active', 'suspended', 'stopped'"),
        ("endpoint list --url here", "http://"),
        ("key create x --scope root", "'route', 'read', 'operate', 'admin'"),
        ("template create", "name"),
        ("template create missing.json", "missing.json cannot be read"),
        ("template create --name x --onstart start.sh", "--onstart: there is no file start.sh"),
        ("template create --name x --search gpu_rm>=24", "Did you mean gpu_ram?"),
        ("template update x", "nothing to change"),
        ("workergroup create --endpoint x --template y --search gpu_rm>=24", "Did you mean gpu_ram?"),
        ("endpoint create x --cold-workers 5 --max-workers 4", "cold_workers: must be at most max_workers, which is 4"),
        ("init x --example nope", "there is no example 'nope'; allowed: demo-llm, ocr"),
        ("init a/b", "NAME: must be the name of a folder"),
        ("request x {} --path /v1/x --timeout soon", "--timeout"),
        ("request x nojson --path /v1/x", "payload is not JSON"),
        ("serve --port 99999", "server.port = 99999"),
        ("config show --config missing.toml", "missing.toml cannot be read"),
        ("agent --upstream http://127.0.0.1:1", "CONTAINER_ID"),
        ("demo --provider kube", "'--provider': 'kube' is not one of 'process', 'docker'"),
        ("demo --engine unix:///x", "--engine is for --provider docker"),
        ("demo --image x", "--image is for --provider docker"),
        ("demo --provider docker --engine ssh://box", "--engine ssh://box: must be an engine of this machine"),
        ("demo --provider docker --engine tcp://box:2375", "must be an engine of this machine"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {code}  " in out for code in (0, 1, 2, 3, 4, 5, 6, 7, 130))


def test_every_command_shows_an_example_of_itself() -> None:
    named = dict(commands())
    assert len(named) > 25
    for name, command in named.items():
        assert "Example" in command.help, name
        assert f"posthouse {name}" in command.help, name


def test_every_command_that_prints_can_print_json() -> None:
    for name, command in commands():
        assert name == "agent" or any("--json" in option.opts for option in command.params), name


def test_the_light_commands_import_nothing_heavy() -> None:
    heavy = ["sqlalchemy", "fastapi", "numpy", "uvicorn", "structlog", "posthouse.config"]
    heavy += ["posthouse.app.wiring", "posthouse.wire.rows"]
    for argv in (["version"], ["agent", "--help"]):
        script = (
            "import sys\nimport posthouse.cli\n"
            # Typer itself brings pydantic to read values; none of ours does.
            "assert 'pydantic' not in sys.modules\n"
            f"assert posthouse.cli.main({argv}) == 0\n"
            f"assert not [m for m in {heavy} if m in sys.modules]\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", ["serve", "demo"])
def test_a_missing_extra_is_named(line: str) -> None:
    script = (
        "import sys\nimport posthouse.cli\n"
        "sys.modules.update(uvloop=None, numpy=None)\n"
        f"assert posthouse.cli.main([{line!r}]) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "error: this command needs the server: pip install 'posthouse[server]'\n"


def test_the_demo_names_the_extra_that_containers_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith(("posthouse.demo.", "posthouse.providers.docker."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    assert main(["demo", "--provider", "docker", "--out", str(tmp_path)]) == 1
    says = "error: --provider docker: aiodocker is not installed; run: pip install 'posthouse[docker]'\n"
    assert capsys.readouterr().err == says


def test_lists_are_json_for_machines_and_tables_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"id": 3, "endpoint_name": "a[bold]b\x1b[2J", "endpoint_state": "active", "min_load": 0.5, "api_key": "phe"}
    answers(monkeypatch, "endpoints", [row])
    assert main(["endpoint", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{name: row[name] for name in row if name != "api_key"}]
    assert main(["endpoint", "list"]) == 0
    out = capsys.readouterr().out
    assert "a[bold]b\N{REPLACEMENT CHARACTER}[2J" in out
    assert "0.5" in out
    assert "phe" not in out
    answers(monkeypatch, "endpoints", [])
    assert main(["endpoint", "list"]) == 0
    assert capsys.readouterr().out == "no endpoints\n"


def test_the_scaling_options_are_those_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    created = answers(monkeypatch, "create_endpoint", 5)
    updated = answers(monkeypatch, "update_endpoint", None)
    answers(monkeypatch, "endpoint", SimpleNamespace(id=5, max_workers=1))
    numbers = [p.name for p in PARAMETERS.values() if not p.choices]
    options = [word for name in numbers for word in (f"--{name.replace('_', '-')}", "1")]
    scaling = dict.fromkeys(numbers, 1)
    assert main(["endpoint", "create", "x", *options]) == 0
    assert main(["endpoint", "update", "x", "--name", "y", "--state", "suspended", *options]) == 0
    assert created == [("x", scaling)]
    assert updated == [(5, {"endpoint_name": "y", "endpoint_state": "suspended", **scaling})]


def test_only_what_is_given_is_sent_and_none_takes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    created = answers(monkeypatch, "create_endpoint", 5)
    assert main(["endpoint", "create", "x", "--inactivity-timeout", "none", "--max-usd-h", "0.5"]) == 0
    assert created == [("x", {"inactivity_timeout": "none", "max_usd_h": 0.5})]


def test_a_template_is_made_from_a_file_and_options_and_options_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    created = answers(monkeypatch, "create_template", SimpleNamespace(id=1, hash_id="abc"))
    answers(monkeypatch, "templates", [])
    (tmp_path / "t.json").write_text('{"name": "a", "env": "-p 1:1", "readme": "r"}')
    (tmp_path / "start.sh").write_text("exec sleep 1\n")
    assert main(["template", "create", "t.json", "--name", "b", "--onstart", "start.sh"]) == 0
    assert main(["template", "create", "--name", "c", "--onstart", "echo 1\nexec sleep 1 " + "x" * 300]) == 0
    assert created == [
        ({"name": "b", "env": "-p 1:1", "readme": "r", "onstart": "exec sleep 1\n"},),
        ({"name": "c", "onstart": "echo 1\nexec sleep 1 " + "x" * 300},),
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"onstart": " \n"}, "onstart: is empty"),
        ({"extra_filters": {"gpu_rm": {"gte": 24}}}, "gpu_rm: there is no such field. Did you mean gpu_ram?"),
        ({}, "name: template 7 is called 'a' already"),
    ],
)
def test_what_looks_like_a_mistake_in_a_template_needs_force(
    fields: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    created = answers(monkeypatch, "create_template", SimpleNamespace(id=1, hash_id="abc"))
    answers(monkeypatch, "templates", [SimpleNamespace(id=7, name="a")])
    (tmp_path / "t.json").write_text(json.dumps({"name": "a", **fields}))
    assert main(["template", "create", "t.json"]) == 2
    assert says in capsys.readouterr().err
    assert main(["template", "create", "t.json", "--force"]) == 0
    assert created == [({"name": "a", **fields},)]


def test_a_template_is_changed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "templates", [SimpleNamespace(id=7, hash_id="h", name="a")])
    updated = answers(monkeypatch, "update_template", SimpleNamespace(id=7, hash_id="abc"))
    assert main(["template", "update", "a", "--image", "x:2", "--name", "b"]) == 0
    assert updated == [(7, {"image": "x:2", "name": "b"})]


def test_a_template_to_start_from_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "llama"]) == 0
    assert "posthouse template create llama/template.json" in capsys.readouterr().out
    template = json.loads((tmp_path / "llama" / "template.json").read_text())
    assert template["name"] == "llama"
    assert "posthouse agent" in template["onstart"]
    assert main(["init", "llama"]) == 2
    assert "is here already" in capsys.readouterr().err
    assert main(["init", "receipts", "--example", "ocr"]) == 0
    template = json.loads((tmp_path / "receipts" / "template.json").read_text())
    assert template["env"].endswith(f"OCR_HOME={tmp_path}/receipts")


def test_the_lines_that_are_new_are_told() -> None:
    assert new_lines([], ["a"]) == ["a"]
    assert new_lines(["a", "b"], ["a", "b", "c"]) == ["c"]
    assert new_lines(["a", "b", "c"], ["c", "d"]) == ["d"]
    assert new_lines(["a"], ["b", "c"]) == ["b", "c"]


def test_a_narrow_terminal_goes_without_what_matters_less(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(output, "console", lambda: Console(file=printed, width=70))
    row = {"id": 3, "endpoint": "llama", "url": "http://127.0.0.1:28068", "gpu_name": "g" * 20, "message": "CUDA"}
    output.print_rows([row], ("id", "endpoint", "gpu_name", "url", "message"), "none", ("gpu_name", "url"))
    assert "gpu_name" not in printed.getvalue()
    assert all(word in printed.getvalue() for word in ("llama", "28068", "message", "CUDA"))


def test_what_is_waited_for_is_told_once_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    with output.waiting("asking") as tell:
        for text in ("asking", "no worker", "no worker", "one loads", ""):
            tell(text)
    assert capsys.readouterr().err == "no worker\none loads\n"


def test_status_tells_what_fails_and_what_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "the last 3 ended with: CUDA out of memory"
    row = rows.Standing(
        endpoint="llama",
        state="active",
        workers={"destroying": 1},
        waiting=4,
        oldest_wait_s=31.04,
        why=why,
        usd_h=1.5,
        spent_usd=3,
    )
    left = Left("max_usd_day", 10, 2, 32, 160, 1769904000, 1)
    answers(
        monkeypatch,
        "status",
        rows.Status(
            version="1",
            installation="i",
            providers=["process"],
            default_provider="process",
            endpoints=1,
            uptime_s=90,
            troubles=["database: it could not be used: disk is full"],
            usd_h=1.5,
            spent_usd=3,
            standing=[row],
            caps=money_left([left, replace(left, used=7, usd_h=12, committed_usd_h=13)], "llama"),
        ),
    )
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "of llama, max_usd_day 10: $2.00 used, $8.00 left until 2026-02-01 00:00 UTC\n" in out
    assert "$3.00 left until 2026-02-01 00:00 UTC (drain)" in out
    assert all(word in out for word in ("disk is full", "llama", "1 destroying", why, "$1.5000 an hour"))
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["standing"][0]["why"] == why


def test_things_are_found_by_what_they_are_called() -> None:
    things = [SimpleNamespace(id=1, name="2"), SimpleNamespace(id=2, name="b"), SimpleNamespace(id=3, name="b")]
    assert find(things, "thing", 2, ("id", "name")) == things[1]
    with pytest.raises(domain.BadRequest, match=r"several things have the name 'b'.*2, 3"):
        find(things, "thing", "b", ("id", "name"))
    with pytest.raises(NotFound, match="no thing 'c'"):
        find(things, "thing", "c", ("id", "name"))


@pytest.mark.parametrize(
    ("flags", "environ", "key"),
    [
        ([], {}, "from-file"),
        (["--url", "http://localhost:9"], {}, "from-file"),
        ([], {"POSTHOUSE_API_KEY": "from-environment"}, "from-environment"),
        (["--api-key", "from-flag"], {"POSTHOUSE_API_KEY": "from-environment"}, "from-flag"),
        (["--url", "http://example.org"], {}, None),
        ([], {"POSTHOUSE_URL": "http://example.org"}, None),
        ([], {"POSTHOUSE_DATA_DIR": "elsewhere"}, None),
    ],
)
def test_the_key_on_this_machine_is_the_last_resort_and_never_goes_elsewhere(
    flags: list[str], environ: dict[str, str], key: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "posthouse-data").mkdir()
    (tmp_path / "posthouse-data" / "admin-key").write_text("from-file\n")
    seen = []
    real = Client.__init__

    def init(self: Client, url: str | None = None, api_key: str | None = None, ca: Path | None = None) -> None:
        seen.append(api_key)
        real(self, url, api_key, ca=ca)

    monkeypatch.setattr(Client, "__init__", init)
    answers(monkeypatch, "keys", [])
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["key", "list", *flags]) == 0
    assert seen == [key]


@pytest.mark.parametrize("text", [b"ph_a\nph_b", b"\x00\xff\xfe", "schl\u00fcssel".encode()])
def test_a_broken_key_file_is_named(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "admin-key"
    file.write_bytes(text)
    monkeypatch.setenv("POSTHOUSE_DATA_DIR", str(tmp_path))
    assert main(["key", "list"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} has no key but other text")


def test_the_logs_of_an_endpoint_are_printed_at_their_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, "endpoint", SimpleNamespace(id=4))
    asked = answers(monkeypatch, "endpoint_logs", SimpleNamespace(info0="", info1="one\ntwo", debug="x"))
    assert main(["endpoint", "logs", "llama", "--tail", "3"]) == 0
    assert (asked, capsys.readouterr().out) == ([(4, 3)], "one\ntwo\n")
    assert main(["endpoint", "logs", "llama", "--level", "info0"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["endpoint", "logs", "llama", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"level": "info1", "lines": ["one", "two"]}
    assert main(["endpoint", "logs", "llama", "--level", "all"]) == 2


def test_logs_of_a_number_are_a_workers_and_of_a_name_an_endpoints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready, fresh = SimpleNamespace(id=4, perf=10.0, gone_at=0.0), SimpleNamespace(id=5, perf=0.0, gone_at=0.0)
    gone = [SimpleNamespace(id=number, perf=0.0, gone_at=1.0) for number in range(1, 5)]
    listed = answers(monkeypatch, "workers", [ready, fresh, *gone])
    asked = answers(monkeypatch, "worker_logs", "line\n")
    assert main(["logs", "12", "--tail", "3"]) == 0
    assert capsys.readouterr().out == "line\n"
    assert main(["logs", "llama", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"worker": 4, "text": "line\n"}, {"worker": 5, "text": "line\n"}]
    assert listed == [("llama", True)]
    assert asked == [(12, 3), (4, 200), (5, 200)]
    answers(monkeypatch, "workers", [fresh, *gone])  # where none was ever ready, what failed says more
    assert main(["logs", "llama", "--json"]) == 0
    assert [row["worker"] for row in json.loads(capsys.readouterr().out)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"token": {"text": "a"}, "generated_text": "whole"}, "a"),
        ({"generated_text": "b"}, "b"),
        ([{"generated_text": "c"}], "c"),
        ({"choices": [{"text": "d"}]}, "d"),
        ({"choices": [{"delta": {"content": "e"}}]}, "e"),
        ({"choices": [{"delta": {"role": "assistant"}}]}, ""),
        ({"choices": [], "usage": {}}, ""),
        ({"choices": [{"message": {"content": "f"}}]}, "f"),
        ("g", "g"),
        ({"boxes": [1]}, '{"boxes": [1]}\n'),
    ],
)
def test_the_text_of_an_answer_is_found(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("events", "as_json", "out"),
    [
        ([{"token": {"text": "a"}}, {"token": {"text": " b"}}, {"choices": []}], False, "a b\n"),
        (["a\n"], False, "a\n"),
        ([b"\x89PNG"], False, b"\x89PNG"),
        ([b"\x89a", {"b": "ä"}], True, '{"data_base64": "iWE="}\n{"b": "ä"}\n'),
        ([], False, ""),
    ],
)
def test_events_are_printed_as_text_as_bytes_or_as_json_lines(
    events: list[object], as_json: bool, out: str | bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    print_events(events, as_json)
    assert capfdbinary.readouterr().out == (out if isinstance(out, bytes) else out.encode())


def test_settings_are_shown_with_their_origins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "posthouse.toml").write_text("[server]\nport = 9000\nhost = '127.0.0.2'\n")
    monkeypatch.setenv("POSTHOUSE_SERVER__PORT", "9001")
    assert main(["config", "show", "--json"]) == 0
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    port, host, tick = rows["server.port"], rows["server.host"], rows["engine.tick_s"]
    assert (port["value"], port["from"]) == (9001, "environment POSTHOUSE_SERVER__PORT")
    assert (host["value"], host["from"]) == ("127.0.0.2", "file posthouse.toml")
    assert (tick["from"], tick["environment"]) == ("default", "POSTHOUSE_ENGINE__TICK_S")
    assert all(row["description"] for row in rows.values())
    assert main(["config", "show"]) == 0
    short = capsys.readouterr().out
    assert main(["config", "show", "--long"]) == 0
    assert "Port to listen on" in capsys.readouterr().out
    assert "Port to listen on" not in short
    assert main(["config", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "posthouse.toml"), "exists": True}


FACTS: dict[str, Any] = {
    "endpoint": "llama",
    "state": "active",
    "scaling": {"min_load": 1.0, "max_usd_h": None},
    "workers": {"by_state": {"idle": 2, "error": 1}, "by_goal": {"hot": 2, "gone": 1}},
    "demand": {
        "rate": 80.0,
        "recent_rate": 90.0,
        "recent_s": 10.0,
        "waiting_count": 4,
        "oldest_wait_s": 2.5,
        "outstanding": 1234.0,
    },
    "estimates": {"perf": {"1/0xCPU": 800.0}, "start_s": 30.0, "create_s": 120.0},
    "usd_h": 0.8,
    "spent_usd": 1.25,
    "decision": {
        "at": 1000.0,
        "hot_need": 100.0,
        "hot_supply": None,
        "ready_supply": 1600.0,
        "goals": {"7": "cold"},
        "rentals": [{"workergroup": 2, "offer": "cpu", "goal": "hot"}],
        "because": [{"what": "need for load", "value": 100.0, "rule": "max(load, min_load 1) / target_util 0.9"}],
    },
    "messages": {"9": "out of memory"},
    "failures": {"4": "the model server ended with status 1"},
}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            FACTS,
            [
                "llama (active)",
                "2 idle, 1 error; wanted: 2 hot, 1 gone",
                "4 wait for a worker, the oldest for 2.5 s",
                "$0.8000/h now, $1.2500 spent so far",
                "100 work/s of hot capacity",
                "1,600 work/s ready, unknown with the workers that are starting",
                "3.0 s ago: worker 7 becomes cold, rent one hot worker from workergroup 2",
                "max(load, min_load 1) / target_util 0.9",
                "in the last day worker 4; the last one said: the model server ended with status 1",
                "out of memory",
            ],
        ),
        (
            {**FACTS, "decision": None, "messages": {}, "failures": {}},
            ["llama (active)", "Nothing has been decided yet."],
        ),
    ],
)
def test_an_explanation_tells_need_supply_rules_workers_and_money(facts: dict[str, Any], says: list[str]) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*page(facts, now=1003.0), sep="\n")
    assert [text for text in says if text not in captured.get()] == []


def test_the_agent_has_an_option_for_every_setting_with_its_true_default() -> None:
    options = {option.name: option for option in dict(commands())["agent"].params}
    for group, prefix in ((AgentSettings, ""), (Benchmark, "benchmark_")):
        for field in fields(group):
            if field.name == "benchmark":
                continue
            option = options[prefix + field.name]
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                assert float(option.show_default) == field.default, field.name
            if isinstance(field.default, str) and field.default and field.name != "health":
                assert option.show_default == field.default, field.name


def test_the_agent_runs_with_what_flags_and_the_environment_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AgentSettings] = []

    async def run(settings: AgentSettings) -> None:
        seen.append(settings)

    monkeypatch.setattr("posthouse.agent.run", run)
    for name, value in WORKER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MODEL_LOG", raising=False)
    assert main(AGENT) == 0
    flags = "--worker-id 8 --report-addr http://a --report-addr http://b --parallel 3 --benchmark-runs 2 --perf 5"
    assert main([*AGENT, *flags.split(), "--benchmark-payload", '{"x": 1}', "--unsecured"]) == 0
    first, second = seen
    assert (first.worker_id, first.mtoken, first.report_addrs) == (7, "secret", ("http://127.0.0.1:8080",))
    assert (first.benchmark, first.unsecured, first.health) == (Benchmark(), False, "/health")
    assert (second.worker_id, second.report_addrs, second.parallel) == (8, ("http://a", "http://b"), 3)
    assert (second.benchmark, second.unsecured) == (Benchmark(runs=2, payload={"x": 1}), True)
    monkeypatch.setenv("UNSECURED", "true")
    monkeypatch.setenv("USE_SSL", "true")
    monkeypatch.setenv("POSTHOUSE_REQUIRE_GRANT", "true")
    no = "--no-tls --no-require-grant --parallel 0 --max-sessions 0 --silence-s 0"
    assert main([*AGENT, *no.split()]) == 0
    third = seen[-1]
    assert (third.tls, third.require_grant, third.unsecured) == (False, False, True)
    assert (third.parallel, third.max_sessions, third.silence_s) == (0, 0, 0.0)


def test_log_lines_are_json_without_secrets_and_libraries_do_not_narrate() -> None:
    script = """
import logging, structlog
from posthouse.app.logs import configure_logging
configure_logging("info", "json")
log = structlog.get_logger("posthouse.test")
log.debug("hidden")
log.info("shown", worker=3)
logging.getLogger("alembic").info("narration")
logging.getLogger("uvicorn").warning("warned")
secret_name = "s3" + "cret"
try:
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
logging.getLogger("uvicorn").error("x" * 1_000_000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    endless = lines.pop()["event"]
    assert 10_000 < len(endless) < 10_100
    assert [(line["event"], line["level"]) for line in lines] == [
        ("shown", "info"),
        ("warned", "warning"),
        ("failed", "error"),
    ]
    assert "broken" in lines[2]["exception"]
    assert "s3cret" not in done.stderr


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\tb\n") == "a\N{REPLACEMENT CHARACTER}[31m\tb\n"
    assert one_line("wrong:\n  a\n  b\n") == "wrong: a; b"


def test_providers_are_listed_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    able: dict[str, Any] = {"capabilities": ["logs"], "answers": True, "offers": 1, "catalog_age_s": 2.0}
    answers(monkeypatch, "providers", [rows.Provider(name="garage", type="fixed", default=False, **able)])
    assert main(["provider", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("garage", "fixed", "logs"))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b]52;c;ZWNo\x07 EVIL\x9b31m", "red EVIL"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9d0;title\x9cafter \x1bP1$r\x1b\\dcs \x1b(Bset \x1b7save", "after dcs set save"),
        ("\x1b]0;never ended\nnext line", "\nnext line"),
        ("loading 1%\rloading 2%\r\x1b[Kloading 100%\r\nAFTER", "loading 100%\nAFTER"),
        ("bell\x07 back\x08\x7f tab\t \u202egnp.exe", "bell� back�� tab\t �gnp.exe"),
        ("cut \x1b", "cut "),
        ("ünï 漢 🚀", "ünï 漢 🚀"),
    ],
)
def test_what_a_worker_printed_steers_no_terminal(said: str, shown: str) -> None:
    assert log_text(said) == shown


def key_row(key_id: str, name: str, **fields: Any) -> rows.Key:
    plain: dict[str, Any] = {"scope": "route", "account": "default", "created_at": 1.0, "last_used_at": None}
    return rows.Key(id=key_id, name=name, revoked_at=None, **plain, **fields)


def test_keys_are_shown_with_their_limits_where_any_has_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(
        monkeypatch, "keys", [key_row("1", "web"), key_row("2", "alice", at_once=4, used_requests=7, used_work=70.5)]
    )
    assert main(["key", "list"]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:7] == ["id", "name", "scope", "at_once", "used_requests", "used_work", "refused_requests"]
    assert [line.split()[:7] for line in lines] == [
        ["1", "web", "route", "-", "0", "0", "0"],
        ["2", "alice", "route", "4", "7", "70.5", "0"],
    ]
    answers(monkeypatch, "keys", [key_row("1", "web")])
    assert main(["key", "list"]) == 0
    assert "used_work" not in capsys.readouterr().out


def test_limits_are_given_to_keys_as_they_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = answers(monkeypatch, "update_key", key_row("2", "alice"))
    assert main(["key", "update", "2", "--work-per-minute", "500", "--at-once", "0"]) == 0
    assert capsys.readouterr().out == "key 2 changed\n"
    assert called == [("2", None, {"requests_per_minute": None, "work_per_minute": 500, "at_once": 0})]
