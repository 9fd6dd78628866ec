"""Signing in to the console and out of it."""

from contextlib import suppress

from fastapi import FastAPI, Request, Response

from posthouse.audit import Act, actor
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import NewSession
from posthouse.errors import Unauthorized, Unavailable
from posthouse.server.auth import Keyring, Principal, Scope
from posthouse.server.console.sessions import LASTS_S, OWN_SITES, Sessions
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller, address_of
from posthouse.server.throttle import Throttle
from posthouse.wire import rows


def add_session_routes(app: FastAPI, hub: Hub, keyring: Keyring, sessions: Sessions, throttle: Throttle) -> None:
    def row(principal: Principal) -> rows.Session:
        session = sessions.of(principal)
        return rows.Session(
            name=keyring.record(principal.key_id).name,
            scope=principal.scope.name.lower(),
            account=hub.account_name(principal.account_id),
            installation=hub.installation,
            csrf="" if session is None else session.csrf,
            expires_at=0.0 if session is None else session.expires_at,
        )

    async def note(what: str, principal: Principal) -> None:
        """Notes that somebody came or left. Without the store, too, people must be able to look at what fails."""
        actor.set(keyring.acting(principal, actor.get()))
        act = Act(f"session.{what}", principal.key_id, principal.account_id, name=actor.get().key_name)
        with suppress(Unavailable):
            await hub.store.note(act)

    @app.post("/v1/session", status_code=201)
    async def sign_in(new: NewSession, request: Request, response: Response) -> rows.Session:
        """Signs a browser in to the console with an account key of scope `read` or more: the answer sets a cookie.

        The session ends after twelve hours, when the key is revoked, and with the server."""
        if request.headers.get("sec-fetch-site", "none") not in OWN_SITES:
            raise Forbidden("signing in is for pages of this server alone")
        now = hub.clock.now()
        found = throttle.principal(keyring, new.key, address_of(request.scope), now)
        if found is None:
            raise Unauthorized("key: it is wrong or revoked")
        if found.endpoint_id is not None or found.scope < Scope.READ:
            raise Forbidden(f"key: the console needs the scope read, and this key has {found.scope.name.lower()}")
        token, session = sessions.open(found, now)
        await note("begin", session.principal)
        secure = request.url.scheme == "https"
        response.set_cookie(
            sessions.cookie, token, int(LASTS_S), path="/", secure=secure, httponly=True, samesite="strict"
        )
        response.headers["Cache-Control"] = "no-store"
        return row(session.principal)

    @app.get("/v1/session")
    async def show_session(caller: Caller, response: Response) -> rows.Session:
        """Who calls: the session of the cookie, or the key."""
        response.headers["Cache-Control"] = "no-store"
        return row(caller)

    @app.delete("/v1/session")
    async def sign_out(caller: Caller, response: Response) -> rows.Session:
        """Ends the session of the cookie."""
        ended = row(caller)
        sessions.close(caller)
        await note("end", caller)
        response.delete_cookie(sessions.cookie, path="/", httponly=True, samesite="strict")
        return ended
