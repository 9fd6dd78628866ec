"""Signing in with a password and with OpenID Connect, over HTTP; the providers are one of PyPI's, and one that lies."""

import asyncio
import io
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import web as http
from argon2 import PasswordHasher
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from posthouse.cli import main
from posthouse.config import Oidc, load_settings
from posthouse.errors import BadRequest
from posthouse.server.console.oidc import own_page
from posthouse.server.passwords import Passwords
from tests.kit.web import Web, served

HEAD = {"alg": "RS256", "kid": "k"}
PASSWORD = "correct horse battery"
ADMITS = ["anna@example.com = operate", "@example.com = read", "group:ops = admin", "boss@other.org = read acme"]


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("posthouse.server.passwords.hasher", lambda: cheap)
    async with served(tmp_path) as web:
        answer = await web.call("POST", "/v1/users", {"name": "anna", "password": PASSWORD, "scope": "operate"})
        assert answer.status == 201, answer
        yield web


async def sign_in(web: Web, name: str, password: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status and body of the answer, and the headers with which the session calls."""
    body = {"name": name, "password": password}
    async with web.session.post(f"{web.url}/v1/session", json=body) as reply:
        found = await reply.json()
        cookie = reply.headers.get("Set-Cookie", "").partition(";")[0]
        web.session.cookie_jar.clear()
        return reply.status, found, {"Cookie": cookie, "X-CSRF-Token": found.get("csrf", "")}


# -- passwords ---------------------------------------------------------------------------------------------------------


async def test_a_user_signs_in_acts_and_is_named_in_the_record(web: Web) -> None:
    assert (await web.call("GET", "/v1/sign-in", key=None)).body == {"passwords": True, "oidc": ""}
    status, session, headers = await sign_in(web, "anna", PASSWORD)
    assert (status, session["name"], session["scope"], session["account"]) == (201, "anna", "operate", "default")
    endpoint = {"endpoint_name": "e"}
    async with web.session.post(f"{web.url}/api/v0/endptjobs/", json=endpoint, headers=headers) as reply:
        assert reply.status == 200
    async with web.session.get(f"{web.url}/v1/keys", headers=headers) as reply:
        assert reply.status == 403  # the user's scope is operate
    acts = (await web.call("GET", "/v1/audit?key=anna")).body
    assert [(act["action"], act["key_id"], act["via"]) for act in acts] == [
        ("endpoint.create", "user:1", "console"),
        ("session.begin", "user:1", "console"),
    ]


async def test_a_wrong_password_and_a_name_that_nobody_has_get_the_same_answer(web: Web) -> None:
    found = [await sign_in(web, *said) for said in (("anna", "wrong"), ("nobody", "wrong"), ("nobody", PASSWORD))]
    assert [status for status, _, _ in found] == [401] * 3
    assert len({str(body) for _, body, _ in found}) == 1


async def test_for_a_name_that_nobody_has_a_password_is_compared_as_well() -> None:
    compared = []

    class Counting(Passwords):
        def _fits(self, hash_: str, password: str) -> bool:
            compared.append(hash_)
            return True

    passwords = Counting()
    assert not await passwords.fits(None, PASSWORD)
    assert compared[0].startswith("$argon2id$")


async def test_a_password_is_tried_ten_times_and_then_seldom_and_another_name_is_free(web: Web) -> None:
    statuses = [(await sign_in(web, "anna", f"wrong {n}"))[0] for n in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert (await sign_in(web, "anna", PASSWORD))[0] == 429  # or it could be guessed on
    assert (await sign_in(web, "nobody", PASSWORD))[0] == 401
    assert (await web.call("POST", "/v1/session", {"key": web.keys["read"]}, key=None)).status == 201


@pytest.mark.parametrize("change", [{"password": "another one, as long"}, {"scope": "read"}, None], ids=str)
async def test_sessions_end_with_a_change_and_a_delete(web: Web, change: dict[str, str] | None) -> None:
    _, _, headers = await sign_in(web, "anna", PASSWORD)
    assert (await web.call("DELETE" if change is None else "PUT", "/v1/users/anna", change)).status == 200
    async with web.session.get(f"{web.url}/v1/session", headers=headers) as reply:
        assert reply.status == 401
    password = (change or {}).get("password", PASSWORD)
    assert (await sign_in(web, "anna", password))[0] == (401 if change is None else 201)


async def test_what_is_stored_and_told_of_a_password_is_no_password(web: Web) -> None:
    [user] = await web.hub.store.users()
    assert user.password.startswith("$argon2id$")
    assert PASSWORD not in str((await web.call("GET", "/v1/audit?limit=1000")).body) + str(user)
    assert "password" not in (await web.call("GET", "/v1/users")).body[0]
    for password in ("too short", PASSWORD * 60):
        answer = await web.call("POST", "/v1/users", {"name": "b", "password": password, "scope": "read"})
        assert (answer.status, password in answer.body["msg"]) == (400, False)


async def test_users_of_an_account_are_its_own(web: Web) -> None:
    await web.call("POST", "/v1/accounts", {"name": "acme"})
    made = await web.call("POST", "/v1/keys", {"name": "theirs", "scope": "admin", "account": "acme"})
    theirs = made.body["key"]
    bob = {"name": "bob", "password": PASSWORD, "scope": "admin"}
    assert (await web.call("POST", "/v1/users", {**bob, "account": "default"}, key=theirs)).status == 403
    assert (await web.call("POST", "/v1/users", bob, key=theirs)).body["account"] == "acme"
    assert [user["name"] for user in (await web.call("GET", "/v1/users", key=theirs)).body] == ["bob"]
    assert (await web.call("DELETE", "/v1/users/anna", key=theirs)).status == 404
    assert (await web.call("GET", "/v1/users", key="operate")).status == 403


async def test_the_command_line_makes_changes_and_deletes_users(
    web: Web, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_URL", web.url)
    monkeypatch.setenv("POSTHOUSE_API_KEY", web.keys["admin"])

    async def told(*words: str, typed: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = await asyncio.to_thread(main, words)
        return code, capsys.readouterr().out

    assert await told("user", "create", "bob", "--stdin", typed=f"{PASSWORD}\n") == (0, "user bob may sign in\n")
    assert (await sign_in(web, "bob", PASSWORD))[1]["scope"] == "read"
    assert (await told("user", "create", "eve", "--stdin", typed="short\n"))[0] == 2
    assert (await told("user", "update", "bob"))[0] == 2
    assert (await told("user", "update", "bob", "--stdin", "--scope", "admin", typed="another one, as long"))[0] == 0
    assert (await sign_in(web, "bob", "another one, as long"))[1]["scope"] == "admin"
    assert [name in (await told("user", "list"))[1] for name in ("anna", "bob", "eve")] == [True, True, False]
    assert (await told("user", "delete", "bob"))[0] == 0
    assert (await told("user", "delete", "bob"))[0] == 4


# -- OpenID Connect ----------------------------------------------------------------------------------------------------


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def gone(session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> str:
    """Where a call leads."""
    async with session.request(method, url, allow_redirects=False, **more) as reply:
        assert reply.status in (302, 303), await reply.text()
        return reply.headers["Location"]


async def who_is_in(web: Web) -> dict[str, Any] | None:
    """The session of the cookie that the browser has."""
    async with web.session.get(f"{web.url}/v1/session") as reply:
        found: dict[str, Any] = await reply.json()
        return found if reply.status == 200 else None


@asynccontextmanager
async def browser(web: Web) -> AsyncIterator[Web]:
    """What keeps cookies also of an address without a name."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        before, web.session = web.session, session
        yield web
        web.session = before


async def test_somebody_whom_a_real_provider_knows_signs_in(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import oidc_provider_mock as mock

        users = [
            mock.User(sub="1", claims={"email": "Anna@example.com", "email_verified": True}),
            mock.User(sub="2", claims={"email": "eve@evil.example", "email_verified": True}),
            mock.User(sub="3", claims={"email": "anna@example.com", "email_verified": False, "groups": ["dev"]}),
            mock.User(sub="4", claims={"name": "Olga", "groups": ["dev", "ops"]}),
        ]
        with mock.run_server_in_thread(user_claims=users) as provider:
            issuer = f"http://localhost:{provider.server_port}"
            oidc = Oidc(issuer=issuer, client_id="posthouse", client_secret="s", admit=ADMITS, name="Example")
            async with served(tmp_path, oidc=oidc) as web:
                begin = f"{web.url}/v1/oidc/begin?leads_to=/console/costs?by=key"
                for sub, scope, name in (("1", "operate", "anna@example.com"), ("4", "admin", "Olga")):
                    async with browser(web):
                        start = await gone(web.session, "GET", begin)
                        back = await gone(web.session, "POST", start, data={"sub": sub})
                        assert await gone(web.session, "GET", back) == "/console/costs?by=key"
                        session = await who_is_in(web)
                        assert session is not None
                        assert (session["scope"], session["name"]) == (scope, name)
                for sub in ("2", "3"):
                    async with browser(web):
                        start = await gone(web.session, "GET", f"{web.url}/v1/oidc/begin")
                        back = await gone(web.session, "POST", start, data={"sub": sub})
                        assert await gone(web.session, "GET", back) == "/console/?refused=not-admitted"
                        assert await who_is_in(web) is None
                acts = (await web.call("GET", "/v1/audit?action=session")).body
                assert [(act["key_id"], act["key_name"]) for act in acts] == [
                    ("oidc:4", "Olga"),
                    ("oidc:1", "anna@example.com"),
                ]


class Liar:
    """A provider whose token says what the test wants."""

    def __init__(self) -> None:
        self.key, self.other = (RSAKey.generate_key(2048, {"kid": "k"}) for _ in range(2))
        self.issuer = ""
        self.asked: dict[str, str] = {}
        self.form: dict[str, str] = {}
        self.claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.sign: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(
            {"alg": "RS256", "kid": "k"}, claims, self.key
        )
        self.said: dict[str, Any] = {}

    async def about(self, request: http.Request) -> http.Response:
        self_said = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return http.json_response(self_said | self.said)

    async def keys(self, request: http.Request) -> http.Response:
        return http.json_response({"keys": [self.key.as_dict(private=False)]})

    async def token(self, request: http.Request) -> http.Response:
        self.form = {name: str(value) for name, value in (await request.post()).items()}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "posthouse", "sub": "7", "iat": now, "exp": now + 60}
        claims |= {"nonce": self.asked["nonce"], "email": "anna@example.com", "email_verified": True}
        return http.json_response({"id_token": self.sign(self.claims(claims))})


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    liar, app = Liar(), http.Application()
    app.add_routes(
        [
            http.get("/.well-known/openid-configuration", liar.about),
            http.get("/keys", liar.keys),
            http.post("/token", liar.token),
        ]
    )
    runner = http.AppRunner(app)
    await runner.setup()
    site = http.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    liar.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield liar
    await runner.cleanup()


async def led_to(web: Web, liar: Liar, **changes: str) -> str:
    """Where somebody ends who comes back from the provider; `changes`: what the query says otherwise."""
    liar.asked = query_of(await gone(web.session, "GET", f"{web.url}/v1/oidc/begin"))
    query = {"code": "c", "state": liar.asked["state"]} | changes
    return await gone(web.session, "GET", f"{web.url}/v1/oidc/end?{urlencode(query)}")


LIES: dict[str, Callable[[Liar], object]] = {
    "another issuer": lambda liar: setattr(liar, "claims", lambda c: c | {"iss": "https://evil.example"}),
    "another audience": lambda liar: setattr(liar, "claims", lambda c: c | {"aud": "another"}),
    "several, for another": lambda liar: setattr(liar, "claims", lambda c: c | {"aud": ["posthouse", "b"], "azp": "b"}),
    "several, for nobody": lambda liar: setattr(liar, "claims", lambda c: c | {"aud": ["posthouse", "b"]}),
    "too old": lambda liar: setattr(liar, "claims", lambda c: c | {"exp": c["iat"] - 120, "iat": c["iat"] - 180}),
    "forever": lambda liar: setattr(liar, "claims", lambda c: {n: v for n, v in c.items() if n != "exp"}),
    "another nonce": lambda liar: setattr(liar, "claims", lambda c: c | {"nonce": "another"}),
    "no nonce": lambda liar: setattr(liar, "claims", lambda c: {n: v for n, v in c.items() if n != "nonce"}),
    "another key": lambda liar: setattr(liar, "sign", lambda c: jwt.encode(HEAD, c, liar.other)),
    "a shared secret": lambda liar: setattr(
        liar, "sign", lambda c: jwt.encode({"alg": "HS256", "kid": "k"}, c, OctKey.import_key(b"s" * 32))
    ),
    "no signature": lambda liar: setattr(
        liar, "sign", lambda c: "eyJhbGciOiJub25lIn0." + jwt.encode({"alg": "RS256"}, c, liar.key).split(".")[1] + "."
    ),
    "no token": lambda liar: setattr(liar, "sign", lambda c: ""),
    "another name": lambda liar: liar.said.update(issuer="https://evil.example"),
    "no address": lambda liar: liar.said.update(token_endpoint="file:///etc/passwd"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_token_is_believed_only_if_all_of_it_is_right(tmp_path: Path, liar: Liar, lie: str) -> None:
    oidc = Oidc(issuer=liar.issuer, client_id="posthouse", admit=ADMITS)
    async with served(tmp_path, oidc=oidc) as web, browser(web):
        if liar.said or lie in ("another name", "no address"):
            LIES[lie](liar)
            assert await gone(web.session, "GET", f"{web.url}/v1/oidc/begin") == "/console/?refused=failed"
        else:
            assert await led_to(web, liar) == "/console/"
            assert await who_is_in(web) is not None
            web.session.cookie_jar.clear()
            LIES[lie](liar)
            assert await led_to(web, liar) == "/console/?refused=failed"
        assert await who_is_in(web) is None


async def test_the_callback_is_for_the_browser_that_began_and_once(tmp_path: Path, liar: Liar) -> None:
    oidc = Oidc(issuer=liar.issuer, client_id="posthouse", admit=ADMITS)
    async with served(tmp_path, oidc=oidc) as web, browser(web):
        assert await led_to(web, liar, state="another") == "/console/?refused=failed"
        assert await led_to(web, liar, iss="https://evil.example") == "/console/?refused=failed"
        await led_to(web, liar)
        assert set(liar.form) == {"grant_type", "code", "redirect_uri", "code_verifier", "client_id"}
        assert (liar.asked["code_challenge_method"], liar.form["redirect_uri"]) == ("S256", f"{web.url}/v1/oidc/end")
        again = f"{web.url}/v1/oidc/end?{urlencode({'code': 'c', 'state': liar.asked['state']})}"
        assert await gone(web.session, "GET", again) == "/console/?refused=failed"  # its cookie is gone
        web.session.cookie_jar.clear()
        liar.asked = query_of(await gone(web.session, "GET", f"{web.url}/v1/oidc/begin"))
        web.session.cookie_jar.clear()
        stolen = f"{web.url}/v1/oidc/end?{urlencode({'code': 'c', 'state': liar.asked['state']})}"
        assert await gone(web.session, "GET", stolen) == "/console/?refused=failed"
        assert await who_is_in(web) is None


async def test_without_a_provider_nobody_is_led_to_one(web: Web) -> None:
    assert (await web.call("GET", "/v1/oidc/begin", key=None)).status == 404


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/console/",
        "//evil.example",
        "/consoles",
        "/console/\\evil",
        "/console/\r\nX:a",
        "",
    ],
)
def test_nobody_is_led_to_another_site(address: str) -> None:
    assert own_page(address) == "/console/"


def test_settings_say_who_may_enter_and_what_is_wrong_with_that() -> None:
    def oidc(**flags: Any) -> Oidc:
        return load_settings({f"oidc.{name}": value for name, value in flags.items()}, None, {})[0].oidc

    assert oidc(admit="A@Example.com = read, group:ml team=operate acme").admits() == [
        ("a@example.com", "read", "default"),
        ("group:ml team", "operate", "acme"),
    ]
    wrong: list[dict[str, Any]] = [
        {"admit": [line]} for line in ("anna", "anna@example.com = root", "everybody = read", "group: = read")
    ]
    for flags in (*wrong, {"issuer": "http://example.com"}):
        with pytest.raises(BadRequest, match=r"oidc\."):
            oidc(**flags)
