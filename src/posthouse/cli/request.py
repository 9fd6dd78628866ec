"""`posthouse request`"""

import base64
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct, to_builtins

from posthouse.cli.input import read_json, read_text
from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import print_json, waiting

if TYPE_CHECKING:
    from posthouse.client import Waiting


def request(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Name of the endpoint.")],
    prompt: Annotated[
        str,
        typer.Argument(metavar="PROMPT", help="The prompt; with --path the payload, as JSON; - reads it from stdin."),
    ],
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 256,
    cost: Annotated[
        float | None,
        typer.Option(min=0, help="Work of the request.", show_default="its tokens; with --path the usual"),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(help="Path to call on the worker.", show_default="/generate; with --stream /generate_stream"),
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Longest wait, in seconds.")] = 600.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send a request to a worker of an endpoint and print the answer.

    Waits for a worker while none is free. A key that can only route is enough.

    Examples:
      posthouse request llama "Once upon a time" --stream
      posthouse request llama '{"prompt": "Once", "max_tokens": 16}' --path /v1/completions --cost 16
    """
    text = read_text(prompt) if prompt == "-" else prompt
    if path is None:
        payload: Any = {"inputs": text, "parameters": {"max_new_tokens": max_new_tokens}}
    else:
        payload = read_json(text, "the payload")
    with connect(url, api_key) as client, waiting("asking for a worker") as tell:

        def on_waiting(reply: "Waiting") -> None:
            tell(f"no worker is free yet, waiting {timeout_s:g} s at most; {reply.status}")

        bounds: dict[str, Any] = {"timeout_s": timeout_s, "on_waiting": on_waiting}
        plain = path is None and cost is None
        if stream:
            events = (
                client.generate_stream(endpoint, text, max_new_tokens, **bounds)
                if plain
                else client.stream(endpoint, path or "/generate_stream", payload, cost, **bounds)
            )
            print_events(events, as_json, lambda: tell(""))
            return
        answer = (
            client.generate(endpoint, text, max_new_tokens, **bounds)
            if plain
            else client.request(endpoint, path or "/generate", payload, cost, **bounds)
        )
    value: object = answer.body
    if answer.content_type == "application/json":
        value = answer.json()
    elif answer.content_type.startswith("text/"):
        value = answer.text
    if as_json:
        facts = {"worker_url": answer.worker_url, "wait_s": answer.wait_s, "attempts": answer.attempts}
        print_json({**_plain(value, "answer"), **facts})
    else:
        print_events([value], as_json)


def print_events(events: Iterable[object], as_json: bool, before: Callable[[], None] = lambda: None) -> None:
    """Prints events as they come: as JSON lines, or bytes as they are and of others the text. Calls `before` each."""
    line_is_open = False
    for event in events:
        before()
        named = isinstance(event, Struct)  # a ServerEvent, which has more than its data
        if isinstance(event, bytes) and not as_json:
            sys.stdout.buffer.write(event)
        else:
            value = event if not named else to_builtins(event) if as_json else getattr(event, "data", event)
            text = _json(value) if as_json else text_of(value)
            sys.stdout.write(text)
            line_is_open = not text.endswith("\n") if text else line_is_open
        sys.stdout.flush()
    if line_is_open:
        sys.stdout.write("\n")


def _json(value: object) -> str:
    return json.dumps(_plain(value, "data") if isinstance(value, bytes) else value, ensure_ascii=False) + "\n"


def _plain(value: object, name: str) -> dict[str, object]:
    """The value under its name; bytes, which JSON has not, as base64 under NAME_base64."""
    if isinstance(value, bytes):
        return {f"{name}_base64": base64.b64encode(value).decode()}
    return {name: value}


def text_of(value: object) -> str:
    """The text in an event or an answer in the shape of TGI or of OpenAI's API; other values as JSON."""
    match value:
        case {"token": {"text": str(text)}} | {"generated_text": str(text)} | [{"generated_text": str(text)}]:
            return text
        case {"choices": [{"text": str(text)}, *_]}:
            return text
        case {"choices": [{"delta": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"delta": _}, *_]} | {"choices": []}:
            return ""  # a role, an end, the usage
        case str():
            return value
    return _json(value)
