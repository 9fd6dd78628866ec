"""The console's bundle, its files, and who is signed in to it."""

import gzip
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docs.generate import CONSOLE_API, console_api

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.server.auth import SECRET_BYTES, Keyring, Principal, Scope
from posthouse.server.console.files import HEADERS, bundle
from posthouse.server.console.sessions import LASTS_S, MAX_OF_A_KEY, Sessions
from posthouse.server.errors import Forbidden
from posthouse.users import SessionRecord

ROOT = Path(__file__).parents[2]
SOURCES = ("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src")
NOW = 1_700_000_000.0


def sources(path: Path) -> Iterator[Path]:
    """Every source of the console, in the order in which console/vite.config.ts reads them."""
    if path.is_file():
        if path.name != "schema.d.ts":
            yield path
    else:
        for inner in sorted(path.iterdir()):
            yield from sources(inner)


# -- the bundle --------------------------------------------------------------------------------------------------------


def test_the_bundle_is_what_the_sources_build() -> None:
    """By a digest, which needs no Node; that the build gives these very bytes is for a test that has it."""
    digest = hashlib.sha256()
    for path in (found for name in SOURCES for found in sources(ROOT / "console" / name)):
        digest.update(f"{path.relative_to(ROOT / 'console').as_posix()}\n".encode() + path.read_bytes())
    built_from = ROOT / "src/posthouse/server/console/bundle/sources.sha256"
    assert built_from.read_text().strip() == digest.hexdigest(), "run `make console`"


def test_the_types_are_made_from_the_api_as_it_is() -> None:
    assert CONSOLE_API.read_text() == console_api(), "run `make docs`, then `make console`"


def test_the_bundle_is_small_and_asks_no_other_host() -> None:
    files = bundle()
    assert sum(len(file.packed or file.content) for file in files.values()) < 250_000
    page = files["index.html"].content.decode()
    assert "http" not in page.replace("http-equiv", "")
    assert "<style" not in page
    assert "<script>" not in page
    assert "url(http" not in files["assets/style.css"].content.decode()
    assert {"preact", "uplot"} <= set(files["licenses.txt"].content.decode().split())


def test_what_is_packed_is_the_same() -> None:
    for file in bundle().values():
        assert not file.packed or gzip.decompress(file.packed) == file.content


def test_the_policy_allows_no_inline_code_and_no_other_host() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert {policy[kind] for kind in ("script-src", "style-src", "connect-src", "font-src")} == {"'self'"}


# -- sessions ----------------------------------------------------------------------------------------------------------


class Desk:
    """Sessions, with a key of each scope and what browsers send."""

    def __init__(self) -> None:
        self.keyring = Keyring(bytes(SECRET_BYTES), [], {1: Endpoint(EndpointId(1), "llm")}.get)
        self.gone = set[str]()
        self.sessions = Sessions(SimpleNamespace(sessions={}, store=self), self.keyring, "posthouse-test")  # type: ignore[arg-type]

    async def put_session(self, session: SessionRecord, ended: Collection[str]) -> None:
        """As the store does."""

    async def drop_sessions(self, digests: Collection[str]) -> None:
        self.gone |= set(digests)

    def key(self, scope: Scope = Scope.OPERATE) -> Principal:
        record, key = self.keyring.mint("a", scope, NOW)
        self.keyring.put(record)
        principal = self.keyring.check(key, NOW)
        assert principal is not None
        return principal

    def caller(
        self, token: str, method: str = "GET", headers: Mapping[str, str] | None = None, now: float = NOW
    ) -> Principal | None:
        sent = {"cookie": f"other=1; posthouse-test={token}", **(headers or {})}
        return self.sessions.caller(method, sent, now)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_session_stands_for_its_key(desk: Desk) -> None:
    token, session = await desk.sessions.open(desk.key(), NOW)
    found = desk.caller(token)
    assert found is not None
    assert (found.scope, found.key_id) == (Scope.OPERATE, session.key_id)
    assert desk.caller(token + "x") is None
    assert desk.sessions.caller("GET", {}, NOW) is None


async def test_a_session_ends_with_time_with_its_key_and_by_signing_out(desk: Desk) -> None:
    (old, _), (signed_out, session), key = *[await desk.sessions.open(desk.key(), NOW) for _ in range(2)], desk.key()
    revoked, _ = await desk.sessions.open(key, NOW)
    assert desk.caller(old, now=NOW + LASTS_S - 1) is not None
    assert desk.caller(old, now=NOW + LASTS_S) is None
    await desk.sessions.close(session)
    assert desk.gone == {session.session}
    assert desk.caller(signed_out) is None
    desk.keyring.revoke(key.key_id, NOW)
    assert desk.caller(revoked) is None


async def test_a_call_that_changes_something_needs_the_second_token(desk: Desk) -> None:
    token, session = await desk.sessions.open(desk.key(), NOW)
    for wrong in (
        {},
        {"x-csrf-token": ""},
        {"x-csrf-token": "é"},
        {"x-csrf-token": desk.keyring.csrf(session.session)[:-1]},
    ):
        with pytest.raises(Forbidden, match="X-CSRF-Token"):
            desk.caller(token, "POST", wrong)
    assert desk.caller(token, "DELETE", {"x-csrf-token": desk.keyring.csrf(session.session)}) is not None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
async def test_no_page_of_another_origin_may_use_the_cookie(desk: Desk, site: str) -> None:
    """Another port of this host is the same site, and its pages are sent the cookie."""
    token, session = await desk.sessions.open(desk.key(), NOW)
    with pytest.raises(Forbidden, match="this server alone"):
        desk.caller(token, "GET", {"sec-fetch-site": site, "x-csrf-token": desk.keyring.csrf(session.session)})


async def test_sessions_are_bounded_and_a_key_drives_out_its_own_alone(desk: Desk) -> None:
    other, _ = await desk.sessions.open(desk.key(), NOW)
    key = desk.key()
    tokens = [(await desk.sessions.open(key, NOW + n))[0] for n in range(MAX_OF_A_KEY + 1)]
    good = [desk.caller(token, now=NOW + 60) is not None for token in (other, tokens[0], tokens[1])]
    assert good == [True, False, True]


async def test_an_endless_cookie_is_not_read(desk: Desk) -> None:
    token, _ = await desk.sessions.open(desk.key(), NOW)
    assert desk.sessions.caller("GET", {"cookie": f"posthouse-test={token}; a={'x' * 9000}"}, NOW) is None


def test_who_calls_with_a_key_goes_on_until_it_is_revoked(desk: Desk) -> None:
    key: Any = desk.key()
    assert desk.sessions.lasts(key, NOW + 10 * LASTS_S)
    assert desk.sessions.of(key) is None
    desk.keyring.revoke(key.key_id, NOW)
    assert not desk.sessions.lasts(key, NOW)
