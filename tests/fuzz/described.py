"""What Schemathesis makes of the API's own description: calls as it says they are, with values at their edges."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import reject
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from tests.fuzz.cases import ROLES
from tests.fuzz.site import Case, Site


def described(site: Site) -> Iterator[st.SearchStrategy[tuple[str, Case]]]:
    """Cases of each call in the description, each with the role of who makes it."""
    for found in schemathesis.openapi.from_dict(site.app.openapi()).get_all_operations():
        assert isinstance(found, Ok), found
        yield st.builds(_case, st.just(site), st.sampled_from(ROLES), found.ok().as_strategy())


def _case(site: Site, role: str, made: schemathesis.Case[Any]) -> tuple[str, Case]:
    try:
        request = requests.Request(**made.as_transport_kwargs(base_url="http://127.0.0.1")).prepare()
    except UnicodeEncodeError:
        reject()  # half a surrogate: no client can send it
    url = urlsplit(str(request.url))
    headers = {name.lower(): str(value) for name, value in request.headers.items()}
    if key := site.secrets.get(role):
        headers["authorization"] = f"Bearer {key}"
    body = request.body or b""
    raw = body if isinstance(body, bytes) else str(body).encode("utf-8", "surrogatepass")
    return role, Case(str(request.method), url.path, url.query, tuple(headers.items()), raw)
