import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from posthouse.app.listen import url_of
from posthouse.config import (
    ProviderSettings,
    Settings,
    allowed,
    env_name,
    known_settings,
    load_settings,
    loading,
    make_data_dir,
    value_of,
)
from posthouse.errors import BadRequest, Refused
from posthouse.plugins import PROVIDERS, installed
from posthouse.providers.process import ProcessProvider

DEFAULTS = Settings(providers={"process": ProcessProvider.Settings(type="process")})
KNOWN = known_settings({"process": ProcessProvider.Settings})


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(
    flags: Mapping[str, Any] | None = None, file: str | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    if file is not None:
        Path("posthouse.toml").write_text(file, encoding="utf-8")
    return load_settings(flags or {}, None, environ or {})


def problems(
    flags: Mapping[str, Any] | None = None, file: str | None = None, environ: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(BadRequest) as raised:
        load(flags, file, environ)
    return [line.strip() for line in str(raised.value).splitlines()]


def test_nothing_given_means_the_defaults() -> None:
    settings, origins = load()
    assert settings == DEFAULTS
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.public_url == "http://127.0.0.1:8080"
    assert origins == dict.fromkeys(KNOWN, "default")


def test_flags_beat_the_environment_that_beats_the_file_that_the_default() -> None:
    file = "[server]\nport = 1\nhost = 'file'\n[engine]\ntick_s = 5"
    environ = {"POSTHOUSE_SERVER__PORT": "2", "POSTHOUSE_SERVER__HOST": "environment"}
    settings, origins = load({"server.port": 3, "server.log_level": None}, file, environ)
    assert (settings.server.port, settings.server.host, settings.engine.tick_s) == (3, "environment", 5.0)
    assert {leaf: origin for leaf, origin in origins.items() if origin != "default"} == {
        "server.port": "flag --port",
        "server.host": "environment POSTHOUSE_SERVER__HOST",
        "engine.tick_s": "file posthouse.toml",
    }


def test_every_setting_can_be_given_in_every_way_and_is_described() -> None:
    defaults = {
        leaf: field.get_default(call_default_factory=True, validated_data=dict(Settings()))
        for leaf, field in KNOWN.items()
    }
    for leaf, field in KNOWN.items():
        assert field.description, leaf
        assert allowed(field), leaf
        if defaults[leaf] is None:  # of a flag it means that none was given
            continue
        assert load({leaf: defaults[leaf]})[1][leaf] == f"flag --{leaf.split('.')[-1].replace('_', '-')}"
        text = ",".join(defaults[leaf]) if isinstance(defaults[leaf], list) else str(defaults[leaf])
        settings, origins = load(environ={env_name(leaf): text})
        assert origins[leaf] == f"environment {env_name(leaf)}"
        assert settings == DEFAULTS
    assert env_name("providers.process.slots") == "POSTHOUSE_PROVIDERS__PROCESS__SLOTS"


def test_a_provider_has_a_table_of_its_own_and_several_may_be_of_one_type() -> None:
    file = "[providers.process]\nslots = 2\n[providers.gpu_box]\ntype = 'process'\n[providers.spare]\ntype = 'process'"
    settings, origins = load(file=file, environ={"POSTHOUSE_PROVIDERS__GPU_BOX__SLOTS": "24"})
    slots = {name: (p.type, value_of(settings, f"providers.{name}.slots")) for name, p in settings.providers.items()}
    assert slots == {"gpu_box": ("process", 24), "process": ("process", 2), "spare": ("process", 0)}
    assert origins["providers.gpu_box.slots"] == "environment POSTHOUSE_PROVIDERS__GPU_BOX__SLOTS"
    assert origins["providers.spare.slots"] == "default"


def test_a_provider_that_is_the_default_needs_no_table_and_another_no_default() -> None:
    assert list(load()[0].providers) == ["process"]
    file = "default_provider = 'box'\n[providers.box]\ntype = 'process'"
    assert list(load(file=file)[0].providers) == ["box"]


def test_what_a_provider_does_not_know_is_refused_by_name() -> None:
    types = " or ".join(installed(PROVIDERS))
    assert problems(
        file="[providers.process]\nslot = 1\nslots = -1\n[providers.box]\nslots = 1\n"
        "[providers.Box]\n[providers.b]\ntype = 'x'"
    )[1:] == [
        "providers.Box: a name has small letters, digits and single _ between them, at most 32",
        f"providers.b.type = 'x' (file posthouse.toml) is no installed provider; allowed: {types}",
        f"providers.box.type is not given, and 'box' is no installed provider; allowed: {types}",
        "providers.process.slot (file posthouse.toml) is unknown; the nearest known is providers.process.slots",
        "providers.process.slots = -1 (file posthouse.toml) should be greater than or equal to 0; "
        "allowed: a whole number >= 0 and <= 1000",
    ]


class Boxes(ProviderSettings):
    machines: list[str] = Field(min_length=1, description="")
    spare: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.spare in self.machines:
            raise ValueError("the spare one must be none of the machines")
        return self


def test_a_provider_may_have_lists_and_rules_over_several_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(load=lambda: SimpleNamespace(Settings=Boxes))
    monkeypatch.setattr(loading, "installed", lambda group: {"boxes": point, "process": process_point()})
    listed = "providers.boxes.machines"
    settings, _ = load(environ={env_name(listed): "a:1, b:2"})
    assert value_of(settings, listed) == ["a:1", "b:2"]
    table = "[providers.boxes]\n"
    for written, said in (
        ('machines = ["a:1", 2]', f"{listed}.1 = 2 (file posthouse.toml) should be a valid string; allowed: a list of"),
        ('spare = "a"', f"{listed} is not given; allowed: a list of text of length >= 1"),
        ('machines = ["a"]\nspare = "a"', "providers.boxes: the spare one must be none of the machines"),
    ):
        assert any(said in problem for problem in problems(file=table + written)), problems(file=table + written)


def process_point() -> SimpleNamespace:
    return SimpleNamespace(load=lambda: ProcessProvider)


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("a.example", "a.example")])
def test_where_the_system_chose_the_port_the_url_of_workers_has_the_host_as_urls_have_it(host: str, shown: str) -> None:
    settings = DEFAULTS.model_copy(update={"server": DEFAULTS.server.model_copy(update={"host": host, "port": 0})})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert url_of(settings, listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_https_changes_the_url_of_workers() -> None:
    assert load({"server.tls": "self"})[0].public_url == "https://127.0.0.1:8080"


def test_wrong_settings_of_tls_are_named() -> None:
    assert problems({"server.tls": "files", "server.tls_certificate": "a.pem"})[1:] == [
        "server.tls_key = '' (default) should be set, and server.tls_certificate too, because server.tls is files; "
        "allowed: text"
    ]
    assert "tls_names = 'a b' (flag --tls-names) should be host names" in problems({"server.tls_names": "a b"})[1]


def test_a_named_file_is_read_instead_of_the_one_in_the_directory() -> None:
    Path("other.toml").write_text("data_dir = '/srv/a'\nserver.port = 5", encoding="utf-8")
    Path("posthouse.toml").write_text("server.port = 6", encoding="utf-8")
    settings, origins = load_settings({}, Path("other.toml"), {})
    assert (settings.server.port, settings.data_dir) == (5, Path("/srv/a"))
    assert origins["server.port"] == "file other.toml"


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadRequest, match=r"absent.toml cannot be read: No such file"):
        load_settings({}, Path("absent.toml"), {})
    with pytest.raises(BadRequest, match=r"posthouse.toml is not TOML: .*line 1"):
        load(file="server.port = ?")
    Path("posthouse.toml").write_bytes(b"# \xff")
    with pytest.raises(BadRequest, match=r"posthouse.toml is not TOML"):
        load()


def test_an_unknown_name_is_an_error_that_names_the_nearest_known() -> None:
    assert problems(
        {"server.hots": "x"},
        "data_dri = 'x'\nserver = 3\n[servr]\nport = 1\n[engine]\nmax_action = 1",
        {"POSTHOUSE_SERVER__PROT": "1"},
    )[1:] == [
        "data_dri (file posthouse.toml) is unknown; the nearest known is data_dir",
        "server (file posthouse.toml) is a table and not a value",
        "servr.port (file posthouse.toml) is unknown; the nearest known is server.port",
        "engine.max_action (file posthouse.toml) is unknown; the nearest known is engine.max_actions",
        "server.prot (environment POSTHOUSE_SERVER__PROT) is unknown; the nearest known is server.port",
        "server.hots (flag --hots) is unknown; the nearest known is server.host",
    ]


def test_variables_of_other_programs_are_let_be() -> None:
    environ = {"POSTHOUSE_KEY": "x", "PATH": "/bin", "SERVER__PORT": "1", "posthouse_server__port": "1"}
    assert load(environ=environ) == load()


def test_every_wrong_value_is_listed_with_where_it_came_from_and_what_is_allowed() -> None:
    assert problems(
        {"server.port": "abc"},
        "public_url = 'ftp://x'\n[engine]\nsilent_s = 46\ntick_s = nan\n[server]\nroute_hold_s = 4.0",
        {"POSTHOUSE_SERVER__LOG_FORMAT": "xml", "POSTHOUSE_PROVIDERS__PROCESS__ENABLED": "perhaps"},
    ) == [
        "wrong settings:",
        "server.port = 'abc' (flag --port) should be a valid integer, unable to parse string as an integer; "
        "allowed: a whole number >= 0 and <= 65535",
        "server.route_hold_s = 4.0 (file posthouse.toml) should be less than 4; allowed: a number >= 0 and < 4",
        "server.log_format = 'xml' (environment POSTHOUSE_SERVER__LOG_FORMAT) should be 'console' or 'json'; "
        "allowed: console or json",
        "engine.tick_s = nan (file posthouse.toml) should be a finite number; allowed: a number >= 0.05 and <= 60",
        "engine.silent_s = 46 (file posthouse.toml) should be greater than 46; allowed: a number > 46 and <= 86400",
        "public_url = 'ftp://x' (file posthouse.toml) should be one URL that begins with http:// or https://, "
        "without a query; allowed: text",
        "providers.process.enabled = 'perhaps' (environment POSTHOUSE_PROVIDERS__PROCESS__ENABLED) should be a valid "
        "boolean, unable to interpret input; allowed: true or false",
    ]


def test_a_wrong_value_is_not_repeated_at_length() -> None:
    (_, problem) = problems({"server.log_level": "x" * 10_000})
    assert len(problem) < 300


def test_an_error_does_not_bring_forth_another() -> None:
    assert len(problems({"server.host": ""})) == 2  # the default of public_url depends on the host


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"server.port": 81}, "http://127.0.0.1:81"),
        ({"server.host": "0.0.0.0"}, "http://127.0.0.1:8080"),
        ({"server.host": "::"}, "http://[::1]:8080"),
        ({"server.host": "post.example"}, "http://post.example:8080"),
        ({"server.host": "0.0.0.0", "public_url": "https://post.example/base/"}, "https://post.example/base"),
    ],
)
def test_workers_are_given_an_url_that_they_can_reach(given: dict[str, Any], url: str) -> None:
    assert load(given)[0].public_url == url


def test_settings_do_not_change() -> None:
    settings, _ = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1  # type: ignore[misc]


def test_the_data_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    settings, _ = load({"data_dir": tmp_path / "a" / "b"})
    path = make_data_dir(settings)
    assert path == make_data_dir(settings) == tmp_path / "a" / "b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "file").touch()
    with pytest.raises(Refused, match=r"data_dir .*file cannot be made"):
        make_data_dir(load({"data_dir": path / "file"})[0])


def test_a_home_directory_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert load(file="data_dir = '~/posts'")[0].data_dir == Path("/home/x/posts")
