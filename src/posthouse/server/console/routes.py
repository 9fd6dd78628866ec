"""Signing in to the console and out of it: with an account key, a password, or OpenID Connect."""

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from posthouse.audit import Act, actor
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import NewSession
from posthouse.errors import BadRequest, NotFound, Unauthorized, Unavailable
from posthouse.server.auth import Keyring, Principal, Scope
from posthouse.server.console.oidc import LASTS_S as AWAY_S
from posthouse.server.console.oidc import PAGE, Admitted, OpenId
from posthouse.server.console.sessions import LASTS_S, OWN_SITES, Sessions
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller, address_of
from posthouse.server.passwords import Passwords
from posthouse.server.throttle import Throttle
from posthouse.users import UserRecord
from posthouse.wire import rows

log = structlog.get_logger()


def key_id_of(user: UserRecord) -> str:
    """What stands for a user where others have the id of a key."""
    return f"user:{user.id}"


@dataclass(frozen=True, slots=True)
class SignIn:
    """Who may sign in, and how that is noted."""

    hub: Hub
    keyring: Keyring
    sessions: Sessions
    throttle: Throttle
    passwords: Passwords
    openid: OpenId | None

    async def by_proof(self, new: NewSession, address: str) -> Principal:
        """Whose key, or name and password, this is. Raises: Unauthorized, Forbidden, TooMany."""
        now = self.hub.clock.now()
        if new.key:
            found = self.throttle.principal(self.keyring, new.key, address, now)
            if found is None:
                raise Unauthorized("key: it is wrong or revoked")
            if found.endpoint_id is not None or found.scope < Scope.READ:
                raise Forbidden(f"key: the console needs the scope read, and this key has {found.scope.name.lower()}")
            return found
        self.throttle.password(new.name, address, now)
        user = self.hub.users.get(new.name)
        fits = await self.passwords.fits(None if user is None else user.password, new.password)
        if not fits or user is None or self.hub.users.get(new.name) is not user:
            raise Unauthorized("name or password: it is wrong")
        return Principal(Scope.named(user.scope), None, key_id_of(user), user.account_id, name=user.name)

    def admitted(self, who: Admitted) -> Principal:
        """Somebody whom the OpenID provider knows. Raises: Forbidden."""
        account = next((a for a in self.hub.accounts.values() if a.name == who.account), None)
        if account is None:
            raise Forbidden(f"oidc.admit names the account {who.account!r}, which does not exist")
        return Principal(Scope.named(who.scope), None, f"oidc:{who.subject}", account.id, name=who.name)

    async def begin(self, principal: Principal, request: Request, response: Response) -> Principal:
        """Begins a session, whose cookie the response sets."""
        token, signed_in = await self.sessions.open(principal, self.hub.clock.now())
        await self.note("begin", signed_in)
        secure = request.url.scheme == "https"
        response.set_cookie(
            self.sessions.cookie, token, int(LASTS_S), path="/", secure=secure, httponly=True, samesite="strict"
        )
        response.headers["Cache-Control"] = "no-store"
        return signed_in

    async def note(self, what: str, principal: Principal) -> None:
        """Notes that somebody came or left. Without the store, too, people must be able to look at what fails."""
        actor.set(self.keyring.acting(principal, actor.get()))
        act = Act(f"session.{what}", principal.key_id, principal.account_id, name=actor.get().key_name)
        with suppress(Unavailable):
            await self.hub.store.note(act)

    def row(self, principal: Principal) -> rows.Session:
        session = self.sessions.of(principal)
        return rows.Session(
            name=principal.name or self.keyring.record(principal.key_id).name,
            scope=principal.scope.name.lower(),
            account=self.hub.account_name(principal.account_id),
            installation=self.hub.installation,
            csrf="" if session is None else self.keyring.csrf(session.digest),
            expires_at=0.0 if session is None else session.began_at + LASTS_S,
        )


def add_session_routes(app: FastAPI, door: SignIn) -> None:
    @app.get("/v1/sign-in")
    async def show_ways() -> rows.SignIn:
        """How one may sign in to the console, beside with an account key."""
        openid = door.openid
        return rows.SignIn(passwords=bool(door.hub.users), oidc="" if openid is None else openid.settings.name)

    @app.post("/v1/session", status_code=201)
    async def sign_in(new: NewSession, request: Request, response: Response) -> rows.Session:
        """Signs a browser in to the console: the answer sets a cookie. With an account key of scope `read` or more, or
        with the name and the password of a user.

        The session ends after twelve hours, and when the key is revoked or the user changed."""
        if request.headers.get("sec-fetch-site", "none") not in OWN_SITES:
            raise Forbidden("signing in is for pages of this server alone")
        who = await door.by_proof(new, address_of(request.scope))
        return door.row(await door.begin(who, request, response))

    @app.get("/v1/session")
    async def show_session(caller: Caller, response: Response) -> rows.Session:
        """Who calls: the session of the cookie, or the key."""
        response.headers["Cache-Control"] = "no-store"
        return door.row(caller)

    @app.delete("/v1/session")
    async def sign_out(caller: Caller, response: Response) -> rows.Session:
        """Ends the session of the cookie."""
        ended = door.row(caller)
        await door.sessions.close(caller)
        await door.note("end", caller)
        response.delete_cookie(door.sessions.cookie, path="/", httponly=True, samesite="strict")
        return ended


def add_openid_routes(app: FastAPI, door: SignIn) -> None:
    cookie, path = f"{door.sessions.cookie}-oidc", "/v1/oidc"

    def openid() -> OpenId:
        if door.openid is None:
            raise NotFound("this server has no OpenID provider: see oidc.issuer among its settings")
        return door.openid

    def refused(why: str, error: Exception) -> RedirectResponse:
        log.warning("nobody was signed in by OpenID Connect", why=str(error))
        return RedirectResponse(f"{PAGE}/?{urlencode({'refused': why})}", 303, {"Cache-Control": "no-store"})

    @app.get("/v1/oidc/begin", include_in_schema=False)
    async def begin_openid(request: Request, leads_to: str = "") -> Response:
        """Leads a browser to the OpenID provider, and afterwards to a page of the console."""
        try:
            where, kept = await openid().begin(leads_to)
        except Unauthorized as error:
            return refused("failed", error)
        response = RedirectResponse(where, 303, {"Cache-Control": "no-store"})
        secure = request.url.scheme == "https"
        # Lax, as the browser comes back from another site.
        response.set_cookie(cookie, kept, AWAY_S, path=path, secure=secure, httponly=True, samesite="lax")
        return response

    @app.get("/v1/oidc/end", include_in_schema=False)
    async def end_openid(request: Request) -> Response:
        """Where the OpenID provider leads a browser back to: signs it in, or says on the console why not."""
        try:
            admitted, leads_to = await openid().end(request.cookies.get(cookie, ""), request.query_params)
            response: Response = RedirectResponse(leads_to, 303)
            await door.begin(door.admitted(admitted), request, response)
        except Forbidden as error:
            response = refused("not-admitted", error)
        except (Unauthorized, BadRequest) as error:
            response = refused("failed", error)
        response.delete_cookie(cookie, path=path, httponly=True, samesite="lax")
        return response
