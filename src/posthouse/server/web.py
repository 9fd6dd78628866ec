"""The management API: the protocol's calls under /api/v0, and our own under /v1."""

from collections.abc import Callable

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from posthouse import __version__
from posthouse.config import Limits, Rates
from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.engine.management.users import Users
from posthouse.engine.orphans import Orphans
from posthouse.engine.stream import EventStream
from posthouse.server.api.aliases import add_alias_routes
from posthouse.server.api.audit import add_audit_routes
from posthouse.server.api.bill import add_bill_route
from posthouse.server.api.costs import add_cost_route
from posthouse.server.api.endpoints import add_endpoint_routes, add_worker_list_routes
from posthouse.server.api.events import add_event_routes
from posthouse.server.api.keys import add_key_routes
from posthouse.server.api.logs import add_log_routes
from posthouse.server.api.manifests import add_manifest_routes
from posthouse.server.api.market import add_market_routes
from posthouse.server.api.orphans import add_orphan_routes
from posthouse.server.api.pages import Ask, add_page_routes
from posthouse.server.api.providers import add_provider_routes
from posthouse.server.api.reading import JsonRoute
from posthouse.server.api.replies import Error
from posthouse.server.api.secrets import add_secret_routes
from posthouse.server.api.templates import add_template_routes
from posthouse.server.api.v1 import Explain, add_v1_routes
from posthouse.server.api.workergroups import add_workergroup_routes
from posthouse.server.api.workers import add_worker_routes
from posthouse.server.auth import Keyring
from posthouse.server.console.files import add_console_routes
from posthouse.server.console.oidc import OpenId
from posthouse.server.console.routes import SignIn, add_openid_routes, add_session_routes, key_id_of
from posthouse.server.console.sessions import Sessions
from posthouse.server.docs import add_docs_routes
from posthouse.server.middleware import NO_SHARING, Sharing, add_error_handlers, add_middleware
from posthouse.server.passwords import Passwords
from posthouse.server.throttle import Throttle

DESCRIPTION = """
Calls under `/api/v0` and at the root are those of the serverless protocol; calls under `/v1` are Posthouse's own.
Send a key as `Authorization: Bearer KEY`. Paths may end with a slash. Errors are
`{"success": false, "error": CODE, "msg": TEXT}`.
"""


def web_app(
    hub: Hub,
    keyring: Keyring,
    limits: Limits,
    explain: Explain,
    throttle: Throttle | None = None,
    stream: EventStream | None = None,
    orphans: Orphans | None = None,
    troubles: Callable[[], list[str]] = list,
    gateway: str = "",
    ask: Ask | None = None,
    openid: OpenId | None = None,
    sharing: Sharing = NO_SHARING,
) -> FastAPI:
    """The ASGI application. `explain` says why an endpoint has the workers that it has. `throttle`, `stream` and
    `orphans`: by default its own, with the default rates, without events, and with none. `troubles`: what fails now.
    `gateway`: the address of the server's own, if it has one. `ask`: sends a request that is to be tried.
    `openid`: whose people may sign in, too. `sharing`: of one of several servers."""
    app = FastAPI(
        title="Posthouse",
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # This draws the field for the key on /docs; AuthMiddleware is what checks keys.
        dependencies=[Depends(HTTPBearer(auto_error=False))],
        responses={"default": {"model": Error, "description": "What is wrong with the call."}},
    )
    app.router.route_class = JsonRoute
    management = Management(hub, limits, keyring)
    throttle = throttle or Throttle(Rates())
    admits = "" if openid is None else f"{openid.settings.issuer}|{openid.settings.admits()}"
    sessions = Sessions(hub, keyring, f"posthouse-{hub.installation}", admits)
    # Each on the application itself and not on a router, so that AuthMiddleware finds the policy of every single route.
    add_endpoint_routes(app, management, keyring)
    add_worker_list_routes(app, management)
    add_log_routes(app, management)
    add_workergroup_routes(app, management, keyring)
    add_template_routes(app, management)
    add_secret_routes(app, management)
    add_market_routes(app, management, sharing)
    add_provider_routes(app, management)
    add_alias_routes(app, management)
    add_manifest_routes(app, management)
    add_v1_routes(app, management, keyring, explain, troubles, gateway, sharing)
    add_page_routes(app, management, keyring, ask)
    add_worker_routes(app, management, sharing)
    passwords = Passwords()
    add_key_routes(app, management, Users(hub, passwords, lambda user: sessions.leave(key_id_of(user))), sharing)
    add_orphan_routes(
        app,
        hub,
        orphans or Orphans(hub, lambda provider, instance: None, lambda labels: hub.store.workers_labelled(labels)),
    )
    add_audit_routes(app, hub)
    add_bill_route(app, hub)
    add_cost_route(app, hub, keyring, sharing)
    add_event_routes(app, hub, stream or EventStream(0), sessions)
    door = SignIn(hub, keyring, sessions, throttle, passwords, openid)
    add_session_routes(app, door)
    add_openid_routes(app, door)
    for route in app.routes:
        if isinstance(route, APIRoute):  # under the headings that docs/reference/http.md has
            whose = "Posthouse's own" if route.path.startswith("/v1/") else "in the protocol's words"
            route.tags = [f"Management, {whose}"]
    add_docs_routes(app)
    add_console_routes(app)
    add_error_handlers(app)
    add_middleware(app, keyring, sessions, throttle, hub.clock, sharing)
    return app
