"""Fills in what the documentation takes from the code: `python docs/generate.py`, or `make docs`.

In a page, what stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced by what `PARTS[NAME]` returns.
A test fails where a page is not what would be generated now.
"""

import ast
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from fastapi import FastAPI
from starlette.routing import Route

from posthouse.cli import EXIT_CODES, app
from posthouse.config import Limits, ProviderSettings, allowed, env_name, known_settings
from posthouse.domain.endpoint import PARAMETERS
from posthouse.domain.lifecycle import (
    BILLED_AS,
    COMMANDS,
    STATE_TIMEOUT_S,
    TRANSITIONS,
    Command,
    Event,
    Goal,
    Observation,
    State,
)
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.gateway.metrics import GATEWAY
from posthouse.measures import Families
from posthouse.policy.tuning import TUNING, Tuning
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.process import ProcessProvider
from posthouse.providers.skypilot.settings import SkypilotSettings
from posthouse.providers.ssh.settings import Host, SshSettings
from posthouse.providers.vast.settings import VastSettings
from posthouse.recipes import names, recipe
from posthouse.server.auth import SECRET_BYTES, Keyring
from posthouse.server.families import SERVER
from posthouse.server.fastpath import ROUTES
from posthouse.server.policies import POLICIES
from posthouse.server.web import web_app
from posthouse.sim.policies import POLICIES as SIMULATED

DOCS = Path(__file__).parent

FAST_CALLS = {
    "/route": "Asks for a worker of an endpoint: its signed address, or after `server.route_hold_s` word to ask again.",
    "/worker_status": "A worker reports its state.",
    "/delete_requests": "A worker reports requests that have ended.",
    "/sign_cert": "Certifies a worker's key for HTTPS, for the addresses at which its instance is.",
    "/pubkey": "The public key, in PEM, by which workers check signatures.",
    "/static/jvastai_root.cer": "The root certificate, in PEM, that `vastai` clients fetch before their first call.",
    "/healthz": "200 while the process answers.",
    "/readyz": "200 once the control loop has done a round, with what fails now; else 503 and why.",
    "/metrics": "What Prometheus scrapes.",
}
"""What the calls of the fast path do."""

WHO = {
    "key": "route, or the endpoint's own key",
    "read": "read",
    "worker": "the worker's own token",
    "placed": "the worker's own token, or who calls from where its instance is",
    "public": "everybody",
}
"""Who may make a call of the fast path, in words."""

PEERS = DOCS / "reference" / "peers.json"
"""What the tests marked `peer` showed when they were last recorded, by `make peers`."""

CONSOLE_API = DOCS.parent / "console" / "openapi.json"
CONSOLE_CALLS = (
    "/v1/session",
    "/v1/sign-in",
    "/v1/costs",
    "/v1/users",
    "/v1/status",
    "/v1/events",
    "/v1/endpoints/{endpoint}/history",
    "/v1/endpoints/{endpoint}/journal",
    "/v1/workers",
    "/v1/workers/{worker_id}",
    "/v1/workers/{worker_id}/drain",
    "/v1/workers/{worker_id}/restart",
    "/v1/workers/{worker_id}/logs",
    "/v1/endpoints/{endpoint}/outlook",
    "/v1/endpoints/{endpoint}/what-if",
    "/v1/endpoints/{endpoint}/try",
    "/v1/endpoints/{endpoint}/bill",
    "/v1/recipes",
    "/v1/deployments",
    "/v1/deployments/estimate",
    "/v1/keys",
    "/v1/keys/{key_id}",
    "/v1/providers",
    "/v1/providers/{name}/check",
    "/v1/offers",
    "/v1/audit",
    "/v1/audit/verify",
    "/api/v0/endptjobs/{endpoint_id}",
    "/api/v0/workergroups",
    "/api/v0/template",
)
"""What the console calls."""

VERDICTS = ("fails", "not run", "works", "recorded", "no", "")
"""What a test says of a call, the weightiest first; the last where there is no test."""

EVERYWHERE = (Command.DESTROY, Observation.ABSENT)
"""Events that mean the same in nearly every state. The picture leaves them out, or nothing could be seen in it."""


def settings() -> str:
    """Every setting of the server, with those of the providers that come with it."""
    models: dict[str, type[ProviderSettings]] = {
        "docker": DockerSettings,
        "kubernetes": KubernetesSettings,
        "process": ProcessProvider.Settings,
        "skypilot": SkypilotSettings,
        "ssh": SshSettings,
        "vast": VastSettings,
    }
    rows = [
        (f"`{name}`", f"`{env_name(name)}`", _default(field), allowed(field), field.description)
        for name, field in known_settings(models).items()
    ]
    rows += [
        (f"`providers.ssh.hosts[].{name}`", "", _default(field), allowed(field), field.description)
        for name, field in Host.model_fields.items()
    ]
    return _table(("setting", "environment", "default", "allowed", "meaning"), rows)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory:
        return "see there"
    return "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def scaling_parameters() -> str:
    """Every scaling parameter of an endpoint."""
    rows = [
        (f"`{p.name}`", f"`{'none' if p.optional else p.default}`", p.unit, p.allowed, p.meaning)
        for p in PARAMETERS.values()
    ]
    return _table(("parameter", "default", "unit", "allowed", "meaning"), rows)


def tuning() -> str:
    """Every number of the policy's own, and what its half and its double do."""
    source = Path(inspect.getsourcefile(Tuning) or "").read_text(encoding="utf-8")
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    measured = json.loads((DOCS.parent / "benchmarks/results/tuning.json").read_text(encoding="utf-8"))["changes"]
    rows = []
    for number, text in pairwise(body):
        if isinstance(number, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            name = ast.unparse(number.target)
            unit, meaning, origin = " ".join(str(text.value.value).split()).rstrip(".").split("; ")
            changes = (_change(measured.get(name, {}).get(factor)) for factor in ("0.5", "2"))
            rows.append((f"`{name}`", f"{getattr(TUNING, name):g}", unit, f"{meaning}.", origin, *changes))
    return _table(("number", "value", "unit", "meaning", "source", "halved", "doubled"), rows)


def _change(measured: tuple[float, float] | None) -> str:
    if measured is None:
        return "not measured"
    changes = zip(("cost {:+.1f} %", "waits {:+.1f} points"), measured, strict=True)
    return ", ".join(text.format(100 * share) for text, share in changes if round(100 * share, 1)) or "nothing"


def knobs() -> str:
    """Every knob of a policy that can be simulated."""
    rows = [
        (f"`{name}`", f"`{knob}`", f"{entry.default(knob):g}", limit.allowed)
        for name, entry in SIMULATED.items()
        for knob, limit in entry.knobs.items()
    ]
    return _table(("policy", "knob", "default", "allowed"), rows)


def _web() -> FastAPI:
    """The management API, of which no call can be made."""
    nothing: Any = None
    hub = Hub(nothing, SystemClock(), {}, "", "docs", stabilization_s=0.0)
    return web_app(hub, Keyring(bytes(SECRET_BYTES), [], hub.endpoint), Limits(), explain=nothing)


def console_api() -> str:
    """The OpenAPI document of the calls that the console makes: its types are made from this."""
    whole = _web().openapi()
    paths = {path: whole["paths"][path] for path in CONSOLE_CALLS}
    schemas: dict[str, Any] = {}
    new = set(_named_in(paths))
    while new:
        schemas |= {name: whole["components"]["schemas"][name] for name in new}
        new = set(_named_in(schemas)) - schemas.keys()
    info = {"title": "Posthouse: what the console calls", "version": "1"}  # that of a release would change it each time
    document = {"openapi": whole["openapi"], "info": info, "paths": paths, "components": {"schemas": schemas}}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _named_in(part: object) -> Iterator[str]:
    """Schemas that a part of the document refers to."""
    yield from re.findall(r'"#/components/schemas/(\w+)"', json.dumps(part))


def routes() -> str:
    """Every route of the server, with who may call it."""
    web = _web()
    texts = {
        (method, route.path_format): _first_sentences(route.endpoint)
        for route in web.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    texts["GET", "/docs"] = "The management API, to read and to try out in a browser."
    texts["GET", "/openapi.json"] = "The management API as an OpenAPI description."
    hot = [(f"`{method} {path}`", WHO[row.access.name], FAST_CALLS[path]) for (method, path), row in ROUTES.items()]
    of_protocol: list[tuple[str, ...]] = []
    own: list[tuple[str, ...]] = []
    for (method, path), least in POLICIES.items():
        row = (f"`{method} {path}`", "everybody" if least is None else least.name.lower(), texts[method, path])
        if method != "HEAD":
            (of_protocol if path.startswith(("/api/", "/get_", "/update_")) else own).append(row)
    columns = ("call", "who may", "what it does")
    return "\n\n".join(
        [
            "## Clients and workers",
            "Each also answers under `/api/v0`, and under `/w/TOKEN`, the address that a worker is given.",
            _table(columns, hot),
            "## Management, in the protocol's words",
            _table(columns, of_protocol),
            "## Management, Posthouse's own",
            _table(columns, own),
        ]
    )


def _first_sentences(function: Callable[..., object]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def commands() -> str:
    """Every command, with its arguments, options and examples."""
    return "\n\n".join(_commands(typer.main.get_command(app), "posthouse"))


def _commands(command: Any, name: str) -> Iterator[str]:
    if inner := getattr(command, "commands", None):
        for word in inner:
            yield from _commands(inner[word], f"{name} {word}")
        return
    yield f"## {name}"
    about, _, examples = re.split(r"^(Examples?):\n", f"{command.help}\n", maxsplit=1, flags=re.M)
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in about.strip().split("\n\n"))
    yield "```sh\n" + "\n".join(line.strip() for line in examples.strip().splitlines()) + "\n```"
    rows = [
        (f"`{_named(param, command)}`", _plain(_value(param)), _plain(param.help))
        for param in command.params
        if not getattr(param, "hidden", False)
    ]
    if rows:
        yield _table(("argument or option", "default", "meaning"), rows)


def _named(param: Any, command: Any) -> str:
    """How an argument or option is written, with its kind of value."""
    if param.param_type_name == "argument":
        return str(param.metavar)
    if param.is_flag:
        return "/".join(param.opts + param.secondary_opts)
    kind = param.metavar or param.display_type(typer.Context(command)).replace(" range", "")
    return f"{'/'.join(param.opts)} {kind}"


def _plain(text: str) -> str:
    """The text, with angle brackets that are no HTML."""
    return text.replace("<", "&lt;")


def _value(param: Any) -> str:
    """What holds where nothing is given, and where else it may be given."""
    if param.required:
        return "required"
    shown = param.show_default if isinstance(param.show_default, str) else param.default
    words = [] if shown in (None, False) else [str(shown)]
    words += [f"`${param.envvar}`"] if param.envvar else []
    return ", else ".join(reversed(words))


def exit_codes() -> str:
    """What the exit code of a command says."""
    rows = re.findall(r"^  (\d+)  (.+)$", EXIT_CODES, re.M)
    return _table(("code", "meaning"), rows)


def state_diagram() -> str:
    """What may become of a worker, as a picture; commands are marked, all else is what is seen."""
    edges: dict[tuple[State, State], list[str]] = defaultdict(list)
    for state, moves in TRANSITIONS.items():
        for event, after in moves.items():
            if event not in EVERYWHERE and after is not state:
                edges[state, after].append(_event(event))
    lines = [f"    {state} --> {after}: {', '.join(events)}" for (state, after), events in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {State.WANTED}", *lines, "```", "", *_left_out()])


def _left_out() -> Iterator[str]:
    """What `EVERYWHERE` does."""
    for event in EVERYWHERE:
        by_after: dict[State, list[State]] = defaultdict(list)
        for state, moves in TRANSITIONS.items():
            if event in moves:
                by_after[moves[event]].append(state)
        for after, states in by_after.items():
            yield f"- {_event(event)}: to {after}, from {', '.join(states)}."


def _event(event: Event) -> str:
    return f"{event} (command)" if isinstance(event, Command) else str(event)


def states() -> str:
    """Every state: its meaning, its deadline, how it is billed, and the command that each goal calls for."""
    rows = [
        (
            f"`{state}`",
            text,
            f"{STATE_TIMEOUT_S[state]:g}" if state in STATE_TIMEOUT_S else "",
            BILLED_AS[state],
            *(COMMANDS[goal].get(state, "") for goal in Goal),
        )
        for state, text in _meanings(State).items()
    ]
    goals = [f"goal {goal}" for goal in Goal]
    return _table(("state", "meaning", "timeout, s", "billed as", *goals), rows)


def observations() -> str:
    """What may be seen of a worker."""
    return _table(("observation", "meaning"), [(f"`{seen}`", text) for seen, text in _meanings(Observation).items()])


def _meanings(words: type[StrEnum]) -> Mapping[Any, str]:
    """The comment behind each member; empty where its name says enough."""
    source = inspect.getsource(words)
    return {
        word: "".join(re.findall(rf"^    {word.name} = .*?  # (.+)$", source, re.M))
        for word in words.__members__.values()
    }


def server_metrics() -> str:
    """Every metric of the server."""
    return _metrics(SERVER)


def gateway_metrics() -> str:
    """Every metric of a gateway."""
    return _metrics(GATEWAY)


def _metrics(families: Families) -> str:
    rows = [(f"`{f.name}`", f.kind, ", ".join(f"`{label}`" for label in f.labels), f.text) for f in families.all]
    return _table(("metric", "kind", "labels", "meaning"), rows)


def peer_calls() -> str:
    """Every call of every generation of peers, and whether it works."""
    record = json.loads(PEERS.read_text(encoding="utf-8"))
    verdicts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in record["rows"]:
        for generation in row["generations"]:
            verdicts[row["call"], generation].append(_verdict(row))
    parts = [f"The package `vastai` was {record['vastai']}, from PyPI."]
    for title, letters in (("Clients", "CD"), ("Command lines", "K"), ("Workers", "W")):
        columns = [g for g in record["generations"] if g[0] in letters]
        calls = sorted({call for call, g in verdicts if g in columns}, key=_by_path)
        rows = [
            (f"`{call}`", *(min(verdicts.get((call, g), [""]), key=VERDICTS.index) for g in columns)) for call in calls
        ]
        parts += [f"## {title}", _table(("call", *columns), rows)]
        parts += ["\n".join(f"- {g}: {record['generations'][g]}" for g in columns)]
    return "\n\n".join(parts)


def peer_tests() -> str:
    """What each marked test shows."""
    rows = []
    for row in sorted(json.loads(PEERS.read_text(encoding="utf-8"))["rows"], key=lambda row: _by_path(row["call"])):
        path, _, test = row["test"].partition("::")
        sentence = test.partition("[")[0].removeprefix("test_").replace("_", " ")
        verdict = ": ".join([_verdict(row), *([row["ran"]] if "ran" in row else [])])
        shown = (row["does"], verdict, f"[{sentence}](../../{path})")
        rows.append((f"`{row['call']}`", ", ".join(row["generations"]), *shown))
    return _table(("call", "of", "what the peer does", "result", "test"), dict.fromkeys(rows))


def _by_path(call: str) -> list[str]:
    return call.split()[::-1]


def _verdict(row: Mapping[str, Any]) -> str:
    """What a row of the record says, one of `VERDICTS`."""
    if row["outcome"] != "passed":
        return "fails" if row["outcome"] == "failed" else "not run"
    if not row["works"]:
        return "no"
    return "recorded" if row["recorded"] else "works"


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [columns, ("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def recipes() -> str:
    lines = ["| recipe | engine | image | must be given |", "| --- | --- | --- | --- |"]
    for name in names():
        one = recipe(name)
        must = ", ".join(f"`{key}`" for key, parameter in one.parameters.items() if parameter.required)
        image = f"`{one.image}`" if one.image else "none: the Python of the worker's Posthouse"
        lines.append(f"| `{name}` | {one.desc} | {image} | {must or '-'} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        settings,
        scaling_parameters,
        tuning,
        knobs,
        routes,
        commands,
        exit_codes,
        state_diagram,
        states,
        observations,
        server_metrics,
        gateway_metrics,
        peer_calls,
        peer_tests,
        recipes,
    )
}

_REGION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)


def filled(page: str) -> str:
    """The page with every generated part as it is now."""
    return _REGION.sub(lambda region: f"{region[1]}\n{PARTS[region[2]]()}\n\n{region[3]}", page)


def main() -> None:
    CONSOLE_API.write_text(console_api(), encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(DOCS)}\n")


if __name__ == "__main__":
    main()
