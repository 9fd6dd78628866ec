"""`python -m tests.fuzz.gateway [FILE]`: calls of a gateway as descriptions of its API say they may be.

FILE: OpenAI's own description, `openapi.json` of the public repository `openai-openapi`. What it does not have is
described here: `OWN`, and the headers that only a gateway reads. A server, a worker with a stand-in for
an engine and a gateway run as processes; each case is made in one role. Ends with 1 and the case where an answer is a
5xx, or anything has logged a traceback.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import reject
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from posthouse.gateway.application import PASSED
from tests.fuzz.__main__ import tries
from tests.kit.gateways import gateway_world

OF_RESPONSE = {f"/v1/responses/{{response_id}}{more}" for more in ("", "/cancel", "/input_items")}
PATHS = {*PASSED, "/v1/models", "/v1/models/{model}", *OF_RESPONSE}
TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
CHAT = {
    "messages": {"type": "array", "items": {"type": "object", "properties": {"role": TEXT, "content": TEXT}}},
    "system": TEXT,
    "max_tokens": COUNT,
    "stream": FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": FLAG}},
    "metadata": {"type": "object", "properties": {"user_id": TEXT}},
    "user": TEXT,
}
OWN: dict[str, dict[str, Any]] = {
    "/rerank": {"query": TEXT, "documents": TEXTS, "top_n": COUNT},
    "/score": {"text_1": TEXT, "text_2": TEXTS},
    "/messages": CHAT,
    "/messages/count_tokens": CHAT,
    "/chat/completions": CHAT,
    "/x/chat/v1/chat/completions": CHAT,
    "/x/{endpoint}/{path}": CHAT,
}
"""The fields of bodies beside `model`."""
HEADERS = ("x-posthouse-cost", "x-posthouse-affinity", "x-posthouse-direct", "idempotency-key", "anthropic-version")
CALM = {"ENGINE__TICK_S": "1", "PROVIDERS__PROCESS__POLL_S": "5", "PROVIDERS__PROCESS__CATALOG_S": "60"}
"""Settings of the server, which is to take no more of the processor than it must."""
ROLES = ("none", "wrong", "own")
KEYS = {"none": "", "wrong": "ph_00000000_" + "w" * 43}


def own() -> dict[str, Any]:
    """The description of what is a gateway's own."""

    def call(path: str, fields: dict[str, Any]) -> dict[str, Any]:
        body = {"type": "object", "properties": {"model": TEXT} | fields, "required": ["model"]}
        parts = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        given = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in parts]
        given += [{"name": name, "in": "header", "schema": TEXT} for name in HEADERS]
        content = {"application/json": {"schema": body}}
        return {"parameters": given, "requestBody": {"content": content}, "responses": {"200": {"description": "good"}}}

    paths = {path: {"post": call(path, fields)} for path, fields in OWN.items()}
    return {"openapi": "3.1.0", "info": {"title": "gateway", "version": "1"}, "paths": paths}


def described(document: dict[str, Any]) -> Iterator[tuple[str, st.SearchStrategy[Any]]]:
    """Each call of the description that a gateway answers, and its cases."""
    there = {path: calls for path, calls in document["paths"].items() if f"/v1{path}" in PATHS or path in OWN}
    for found in schemathesis.openapi.from_dict(document | {"paths": there}).get_all_operations():
        assert isinstance(found, Ok), found
        call = found.ok()
        if call.method.upper() in {"GET", "POST", "DELETE"}:
            yield f"{call.method.upper()} {call.path}", call.as_strategy()


def explore(documents: list[dict[str, Any]], directory: Path, per_call: int, seed: int) -> Counter[str]:
    """How many cases of what were made. Raises: AssertionError with the case that broke something."""
    made: Counter[str] = Counter()
    folder = directory / "engines"
    folder.mkdir()
    calm = {f"POSTHOUSE_{name}": value for name, value in CALM.items()}
    with gateway_world(directory, folder, "--max-body-mib", "1", environ=calm) as world, requests.Session() as http:

        def check(drawn: tuple[str, bool, schemathesis.Case[Any]]) -> None:
            role, names, case = drawn
            if names and isinstance(case.body, dict):
                case.body["model"] = "chat"
            headers = {"Authorization": f"Bearer {KEYS.get(role, world.key)}"}
            try:
                request = requests.Request(**case.as_transport_kwargs(base_url=world.url, headers=headers)).prepare()
                answer = http.send(request, timeout=60, allow_redirects=False)
            except (UnicodeError, requests.exceptions.InvalidHeader):
                reject()  # no client can send it
            made[f"answered {answer.status_code}"] += 1
            made[f"as {role}"] += 1
            assert answer.status_code < 500, (request.method, urlsplit(str(request.url)), request.body, answer.text)
            assert "Traceback" not in answer.text, (request.method, request.url, request.body)

        for document in documents:
            for name, strategy in described(document):
                tries(st.tuples(st.sampled_from(ROLES), st.booleans(), strategy), check, per_call, seed)
                made[name] += per_call
                print(f"{name:<40} {per_call:>8,}", flush=True)
    return made


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", type=Path, metavar="FILE", nargs="?")
    options.add_argument("--per-call", type=int, default=1300, help="cases of each call (1300)")
    options.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what is drawn (random)")
    chosen = options.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    began = time.monotonic()
    documents = [own(), *([json.loads(chosen.file.read_bytes())] if chosen.file else [])]
    with tempfile.TemporaryDirectory() as directory:
        made = explore(documents, Path(directory), chosen.per_call, chosen.seed)
    for what, number in sorted(made.items()):
        print(f"{what:<40} {number:>8,}")
    total = sum(number for what, number in made.items() if what.startswith("answered"))
    print(f"{total:,} cases in {time.monotonic() - began:.0f} s: no 5xx, no traceback")
    return 0


if __name__ == "__main__":
    sys.exit(main())
