"""Signing in with OpenID Connect: authorization code with PKCE, at one provider, and who of its people may enter.

What must be remembered while somebody is at the provider goes with the browser, sealed, in a cookie: nothing is kept
here, and a callback is worth something in the browser alone that began.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from cryptography.fernet import Fernet, InvalidToken

from posthouse.config import Oidc
from posthouse.errors import Refused, Unauthorized
from posthouse.server.errors import Forbidden

LASTS_S: Final = 600
"""How long somebody may be at the provider."""
CALL_S: Final = 10.0
MAX_BYTES: Final = 1_048_576
"""Longest answer of the provider that is read."""
KNOWN_S: Final = 3600.0
"""How long what the provider says about itself is good."""
KEYS_S: Final = 60.0
"""How soon its keys are asked for again where a token names one that is not among them."""
LEEWAY_S: Final = 60
"""How far the provider's clock may be from ours."""
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of signatures with a public key: a token is never believed for a shared secret, or for none."""
BASIC: Final = "client_secret_basic"
"""How a client shows its secret, unless the provider says that it takes only another way."""
PAGE: Final = "/console"
MAX_PAGE: Final = 1000
"""Longest address of a page that is gone back to."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody whom the provider knows and who may enter."""

    subject: str
    name: str
    scope: str
    account: str


class OpenId:
    """One provider."""

    def __init__(self, settings: Oidc, fernet: Fernet, url: str) -> None:
        """`url`: where browsers reach this server. Raises: Refused if what this needs is not installed."""
        if find_spec("joserfc") is None:
            raise Refused("oidc.issuer is set, and what it needs is not installed: pip install 'posthouse[oidc]'")
        self.settings = settings
        self._fernet = fernet
        self._redirect_uri = f"{url}/v1/oidc/end"
        self._said: dict[str, Any] = {}
        self._said_at = self._keys_at = float("-inf")
        self._keys: dict[str, Any] = {"keys": []}

    async def begin(self, leads_to: str) -> tuple[str, str]:
        """Where the browser is to go, and what its cookie is to hold meanwhile. Raises: Unauthorized."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        digest = hashlib.sha256(verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self.settings.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        async with self._session() as session:
            where = str((await self._provider(session))["authorization_endpoint"])
        kept = json.dumps([state, nonce, verifier, own_page(leads_to)])
        return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}", self._fernet.encrypt(kept.encode()).decode()

    async def end(self, cookie: str, answer: Mapping[str, str]) -> tuple[Admitted, str]:
        """Who has come back, and the page where they wanted to go. `answer`: the query of the callback.

        Raises: Unauthorized, Forbidden if nobody admits them.
        """
        try:
            state, nonce, verifier, leads_to = json.loads(self._fernet.decrypt(cookie.encode(), ttl=LASTS_S))
        except (InvalidToken, UnicodeError):
            raise Unauthorized("the browser has no cookie of a sign-in that began, or it took too long") from None
        if not hmac.compare_digest(answer.get("state", "").encode(), state.encode()):
            raise Unauthorized("the state is not the one that this browser was given")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise Unauthorized("another provider has answered")
        if "code" not in answer:
            raise Unauthorized(f"the provider says {answer.get('error', 'nothing')[:100]!r}")
        async with self._session() as session:
            provider = await self._provider(session)
            tokens = await self._tokens(session, provider, answer["code"], verifier)
            claims = await self._claims(session, provider, str(tokens.get("id_token", "")), nonce)
            if provider.get("userinfo_endpoint") and tokens.get("access_token"):
                claims = await self._with_more(session, provider, str(tokens["access_token"]), claims)
        return self._admitted(claims), leads_to

    def _admitted(self, claims: Mapping[str, Any]) -> Admitted:
        """Raises: Forbidden."""
        email = str(claims.get("email", "")).casefold() if claims.get("email_verified") is True else ""
        groups = claims.get(self.settings.groups_claim)
        of = {f"group:{group}" for group in groups if isinstance(group, str)} if isinstance(groups, list) else set()
        of |= {email, f"@{email.rpartition('@')[2]}"} if "@" in email else set()
        subject = str(claims["sub"])
        for who, scope, account in self.settings.admits():
            if who in of:
                name = email or str(claims.get("preferred_username") or claims.get("name") or subject)
                shown = "".join(c for c in name if c.isprintable())[:255] or "(no name)"
                return Admitted(subject[:200], shown, scope, account)
        raise Forbidden(f"nobody admits {email or subject!r}")

    async def _provider(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """What the provider says about itself."""
        if time.monotonic() - self._said_at > KNOWN_S:
            issuer = self.settings.issuer
            said = await self._ask(session, "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if said.get("issuer") != issuer:
                raise Unauthorized(f"the provider calls itself {str(said.get('issuer'))[:200]!r}, and not {issuer!r}")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not str(said.get(name)).startswith("https://" if issuer.startswith("https://") else "http"):
                    raise Unauthorized(f"the provider's {name} is missing, or is no https:// URL")
            self._said, self._said_at = said, time.monotonic()
        return self._said

    async def _tokens(
        self, session: aiohttp.ClientSession, provider: Mapping[str, Any], code: str, verifier: str
    ) -> dict[str, Any]:
        client, secret = self.settings.client_id, self.settings.client_secret
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if secret and BASIC in provider.get("token_endpoint_auth_methods_supported", [BASIC]):
            pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client} | ({"client_secret": secret} if secret else {})
        return await self._ask(session, "POST", str(provider["token_endpoint"]), data=form, headers=headers)

    async def _claims(
        self, session: aiohttp.ClientSession, provider: Mapping[str, Any], token: str, nonce: str
    ) -> dict[str, Any]:
        """What an ID token says, if all of it is as OpenID Connect Core 1.0 §3.1.3.7 wants it. Raises: Unauthorized."""
        expected = {"iss": self.settings.issuer, "aud": self.settings.client_id, "nonce": nonce}
        try:
            return _believed(token, self._keys, expected)
        except Unauthorized:
            if time.monotonic() - self._keys_at < KEYS_S:
                raise
        self._keys = await self._ask(session, "GET", str(provider["jwks_uri"]))
        self._keys_at = time.monotonic()
        return _believed(token, self._keys, expected)

    async def _with_more(
        self, session: aiohttp.ClientSession, provider: Mapping[str, Any], access: str, claims: dict[str, Any]
    ) -> dict[str, Any]:
        """The claims, and what the provider tells only where it is asked."""
        where, headers = str(provider["userinfo_endpoint"]), {"Authorization": f"Bearer {access}"}
        more = await self._ask(session, "GET", where, headers=headers)
        return more | claims if more.get("sub") == claims["sub"] else claims

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(CALL_S), trust_env=True)

    async def _ask(self, session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> dict[str, Any]:
        """The JSON object that the provider answers. Raises: Unauthorized."""
        try:
            async with session.request(method, url, allow_redirects=False, **more) as reply:
                body = bytearray()
                async for piece in reply.content.iter_chunked(65_536):
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise Unauthorized(f"the provider's answer has more than {MAX_BYTES} bytes")
                if reply.status != 200:
                    raise Unauthorized(f"the provider answers {reply.status} at {url[:200]}")
                found = json.loads(body)
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            raise Unauthorized(f"the provider cannot be asked at {url[:200]}: {type(error).__name__}") from None
        if not isinstance(found, dict):
            raise Unauthorized(f"the provider's answer at {url[:200]} is no object")
        return found


def _believed(token: str, keys: dict[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """The claims of an ID token that one of the keys has signed, and that says what is expected.

    Raises: Unauthorized.
    """
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    must: dict[str, Any] = {name: {"essential": True} for name in ("exp", "iat", "sub")}
    must |= {name: {"essential": True, "value": value} for name, value in expected.items()}
    try:
        read = jwt.decode(token, KeySet.import_key_set({"keys": keys.get("keys", [])}), algorithms=ALGORITHMS)
        jwt.JWTClaimsRegistry(now=int(time.time()), leeway=LEEWAY_S, **must).validate(read.claims)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unauthorized(f"the provider's token is not valid: {str(error)[:200]}") from None
    several = isinstance(read.claims["aud"], list) and len(read.claims["aud"]) > 1
    if read.claims.get("azp", "" if several else expected["aud"]) != expected["aud"]:
        raise Unauthorized("the provider's token is for another client")
    return dict(read.claims)


def own_page(address: str) -> str:
    """The address, if it is one of the console's pages; else the console's first."""
    path = address.partition("?")[0]
    own = path == PAGE or path.startswith(f"{PAGE}/")
    decent = len(address) <= MAX_PAGE and all("!" <= c <= "~" and c not in "\\#" for c in address)
    return address if own and decent else f"{PAGE}/"
