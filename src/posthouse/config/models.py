"""The settings: one tree, read once at start."""

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from posthouse.config.oidc import Oidc
from posthouse.config.section import Section, url, url_or_none
from posthouse.errors import Refused

ENV_PREFIX = "POSTHOUSE_"


def _names(text: str) -> str:
    for name in filter(None, text.split(",")):
        if not re.fullmatch(r"[A-Za-z0-9.:*_-]+", name):
            raise ValueError("should be host names and IP addresses, with commas between and no spaces")
    return text


class Server(Section):
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    route_hold_s: float = Field(
        2.0,
        ge=0,
        lt=4,
        description="How long a request for a worker is held open when none is free, in seconds. "
        "The least patient client known gives up after 4.",
    )
    max_body_bytes: int = Field(1_048_576, ge=4096, le=1 << 30, description="Longest request body, in bytes.")
    max_connections: int = Field(
        10_000,
        ge=10,
        le=1_000_000,
        description="Most connections served at a time; fewer where the limit of open files is lower. Beyond, of the "
        "address with the most that never showed a good key, the one that has been silent longest is closed.",
    )
    peer_url: Annotated[str, AfterValidator(url_or_none)] = Field(
        "",
        description="URL at which the other servers of the installation reach this one, where several share a database "
        "of PostgreSQL; default: its host, or the machine's name where that is every address, and its port.",
    )
    lease_s: float = Field(
        2.0,
        ge=0.2,
        le=60,
        description="How long a server that shares a database lives without a word to it, in seconds; then the others "
        "take its endpoints over.",
    )
    tls: Literal["off", "self", "files"] = Field(
        "off",
        description="HTTPS: `self` makes a certificate, signed by the authority of this installation and renewed in "
        "time; `files` takes `server.tls_certificate` and `server.tls_key`, and reloads them when they change.",
    )
    tls_names: Annotated[str, AfterValidator(_names)] = Field(
        "",
        description="Names and addresses, with commas between, that the certificate of `self` is for beside "
        "localhost, `server.host` and the host of `public_url`. Workers at names need theirs, or a domain above, here.",
    )
    tls_certificate: str = Field("", description="File of the certificate, and those between it and its root, in PEM.")
    tls_key: str = Field("", validate_default=True, description="File of its key, in PEM, without a password.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")

    @field_validator("tls_key")
    @classmethod
    def _files_named(cls, tls_key: str, given: ValidationInfo) -> str:
        if given.data.get("tls") == "files" and not (tls_key and given.data.get("tls_certificate")):
            raise ValueError("should be set, and server.tls_certificate too, because server.tls is files")
        return tls_key


class Gateway(Section):
    """Of the gateway that a server keeps; one that is started by `posthouse gateway` has its flags."""

    enabled: bool = Field(False, description="Whether the server keeps a gateway, which answers OpenAI's API.")
    host: str = Field("127.0.0.1", min_length=1, description="Address on which it listens.")
    port: int = Field(8081, ge=0, le=65535, description="Port on which it listens; 0 takes a free one.")
    drain_s: float = Field(
        10.0, ge=0, le=3600, description="How long its requests may go on when the server stops, in seconds."
    )
    records: Path | None = Field(
        None, description="File for what became of each request, for `posthouse records`. Default: it is only logged."
    )
    externals: Path | None = Field(
        None,
        description="File, in TOML, with servers of others that aliases may fall back on. Default: there are none.",
    )


class Engine(Section):
    tick_s: float = Field(1.0, ge=0.05, le=60, description="Time between two scaling decisions, in seconds.")
    silent_s: float = Field(
        60.0,
        gt=46,
        le=86_400,
        description="Silence after which a worker counts as unavailable, in seconds. Workers report every 10 s, "
        "and may spend 36 s on three attempts.",
    )
    max_actions: int = Field(8, ge=1, le=1000, description="Most provider calls at one time.")
    action_timeout_s: float = Field(120.0, ge=1, le=3600, description="Longest provider call, in seconds.")
    stabilization_s: float = Field(
        60.0, ge=0, le=3600, description="Time after a restart during which nothing is scaled down, in seconds."
    )
    canary_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long the first worker of a new version must serve before others follow, in seconds; five "
        "times that where it gets few requests.",
    )
    orphan_after_s: float = Field(
        120.0,
        ge=1,
        le=86_400,
        description="How long an instance with our label must be listed without a worker that owns it before it is "
        "destroyed, in seconds; never sooner than `engine.stabilization_s` after a start.",
    )
    traffic_log_mb: float = Field(
        8.0,
        ge=0,
        le=10_000,
        description="How much is kept of what each endpoint was asked, for `simulate --from-journal` and `advise`, in "
        "MB: some million requests fit in 8. Beyond it the oldest go. 0: nothing is kept.",
    )
    keep_events_mb: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="How much is kept of the events of each endpoint's controller since the server began, in MB, for "
        "`posthouse replay`; about 1 kB a request. What comes beyond it is not kept. 0: nothing is.",
    )
    events_dir: Path | None = Field(None, description="Where that is kept. Default: `events` in the data directory.")


class Limits(Section):
    endpoints: int = Field(1000, ge=1, le=100_000, description="Most endpoints.")
    workergroups: int = Field(1000, ge=1, le=100_000, description="Most workergroups.")
    templates: int = Field(1000, ge=1, le=100_000, description="Most templates.")
    keys: int = Field(1000, ge=1, le=100_000, description="Most account keys, revoked ones included.")
    workers_per_endpoint: int = Field(
        1000, ge=1, le=10_000, description="Most workers of one endpoint, whatever its max_workers says."
    )


class Database(Section):
    url: str = Field(
        "",
        repr=False,
        description="Where the database is: `postgresql://USER:PASSWORD@HOST/DATABASE`; empty: in the file "
        "`posthouse.db` of the data directory.",
    )


class Money(Section):
    """Caps on what all endpoints spend together, beside those of each."""

    max_usd_h: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Most that all workers may come to cost, in US dollars an hour. Default: no cap.",
    )
    max_usd_day: float | None = Field(
        None, ge=0, le=1e9, description="Most that is spent in a day, in US dollars; days are UTC. Default: no cap."
    )
    max_usd_month: float | None = Field(
        None, ge=0, le=1e9, description="Most that is spent in a calendar month, in US dollars. Default: no cap."
    )


class Rates(Section):
    """Calls per second, as a mean: after a pause ten times as many may come at once. 0: no limit."""

    routes_per_key: float = Field(
        5000.0,
        ge=0,
        le=1e6,
        description="Most /route/ calls of one key, per second; those beyond must wait. 0: no limit.",
    )
    routes_per_address: float = Field(
        5000.0,
        ge=0,
        le=1e6,
        description="Most /route/ calls from one address, per second; those beyond must wait. 0: no limit, as "
        "behind a proxy, where all clients have one address.",
    )
    calls_per_key: float = Field(
        50.0, ge=0, le=1e6, description="Most management calls of one key, per second; 0: no limit."
    )
    calls_per_address: float = Field(
        100.0, ge=0, le=1e6, description="Most management calls from one address, per second; 0: no limit."
    )
    wrong_keys_per_address: float = Field(
        10.0,
        ge=0,
        le=1e6,
        description="Most wrong keys from one address, per second; beyond, they are put off. Good ones never are. "
        "0: no limit.",
    )
    reports_per_worker: float = Field(
        10.0, ge=0, le=1e6, description="Most messages that one worker may send, per second; 0: no limit."
    )


class ProviderSettings(Section):
    """What every provider's table `[providers.NAME]` may say; a provider's own `Settings` inherit it and add theirs."""

    type: str = Field(
        "", description="Which installed provider it is; default: the one that is called as the table is."
    )
    enabled: bool = Field(True, description="Whether it is used.")
    poll_s: float = Field(10.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(60.0, ge=0.05, le=86_400, description="Time between two looks at its offers, in seconds.")
    calls_per_s: float = Field(
        0.0, ge=0, le=1e6, description="Most calls to it per second, as a mean; those beyond wait. 0: no limit."
    )
    region: str = Field(
        "",
        max_length=64,
        description="Where its machines are, if it does not say that itself: what a search for `region` finds.",
    )
    classes: str = Field(
        "",
        max_length=255,
        description="Names that it shares with others, such as `own`, with commas between: a workergroup may name one.",
    )
    public_url: Annotated[str, AfterValidator(url_or_none)] = Field(
        "", description="URL at which its workers reach the server; default: `public_url`."
    )


def _own_url(values: dict[str, Any]) -> str:
    """Where workers on this machine reach the server."""
    server: Server = values["server"]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 (read, not listened on)
    scheme = "http" if server.tls == "off" else "https"
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"


class Settings(Section):
    server: Server = Server()
    gateway: Gateway = Gateway()
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        Path("posthouse-data"), description="Directory of the database, the secrets and the workers' files."
    )
    database: Database = Database()
    oidc: Oidc = Oidc()
    engine: Engine = Engine()
    public_url: Annotated[str, AfterValidator(url)] = Field(
        default_factory=_own_url,
        description="URL at which workers reach the server; default: the server's host and its port.",
    )
    limits: Limits = Limits()
    money: Money = Money()
    rates: Rates = Rates()
    providers: Mapping[str, SerializeAsAny[ProviderSettings]] = Field(
        default_factory=dict, description="By name; each is an instance of its own type's model."
    )
    default_provider: str = Field(
        "process",
        min_length=1,
        description="Where workergroups rent that name no provider: names, types or classes of providers, with commas "
        "between, or `any`.",
    )


def _is_section(kind: Any) -> TypeGuard[type[Section]]:
    return isinstance(kind, type) and issubclass(kind, Section)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its dotted name, in the order of the tree; without those of providers."""
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        elif prefix + name != "providers":
            yield prefix + name, field


LEAVES = dict(leaves(Settings))


def known_settings(providers: Mapping[str, type[ProviderSettings]]) -> dict[str, FieldInfo]:
    """Every setting by its dotted name, with those of these providers."""
    return LEAVES | {leaf: f for name, model in providers.items() for leaf, f in leaves(model, f"providers.{name}.")}


def value_of(settings: Settings, leaf: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = settings
    for part in leaf.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "of length >="}


def is_list(field: FieldInfo) -> bool:
    """Whether a setting is a list."""
    return get_origin(field.annotation) is list


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: `a whole number >= 0 and <= 65535`."""
    kinds = [
        "tables" if _is_section(kind) else _KINDS.get(kind, str(kind))
        for kind in get_args(field.annotation) or [field.annotation]
        if kind is not NoneType
    ]
    kind = f"a list of {kinds[0]}" if is_list(field) else " or ".join(kinds)
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in _SIGNS.items()
        if hasattr(rule, name)
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


def shown(field: FieldInfo, value: Any) -> Any:
    """A setting's value as people may see it: of a key, which its field does not repeat, only that there is one."""
    return value if field.repr or not value else "***"


def env_name(leaf: str) -> str:
    """The environment variable of a setting: POSTHOUSE_SERVER__PORT for server.port."""
    return ENV_PREFIX + leaf.replace(".", "__").upper()


def make_data_dir(settings: Settings) -> Path:
    """The data directory, for its owner alone, made if it was not there. Raises: Refused."""
    path = settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"data_dir {path} cannot be made: {error.strerror}") from error
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 not in (0, 0o010):  # a group of workers may pass through
        try:
            path.chmod(mode & 0o700)
        except OSError as error:
            raise Refused(
                f"data_dir {path} is open to other users (mode {mode:04o}), and its mode cannot be changed: "
                f"{error.strerror}; have its owner make it 0700"
            ) from error
    return path
