"""Who may call what: every route of the management API, in one table. A route that is not here is refused."""

from typing import Final

from posthouse.server.auth import Scope

PUBLIC: Final = None
"""No key is needed."""

POLICIES: Final[dict[tuple[str, str], Scope | None]] = {
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/{asset}"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("HEAD", "/openapi.json"): PUBLIC,
    # The protocol's management calls.
    ("GET", "/api/v0/users/current"): Scope.READ,
    ("GET", "/api/v0/endptjobs"): Scope.READ,
    ("POST", "/api/v0/endptjobs"): Scope.OPERATE,
    ("GET", "/api/v0/endptjobs/{endpoint_id}"): Scope.ROUTE,
    ("PUT", "/api/v0/endptjobs/{endpoint_id}"): Scope.OPERATE,
    ("DELETE", "/api/v0/endptjobs/{endpoint_id}"): Scope.OPERATE,
    ("GET", "/api/v0/autojobs"): Scope.READ,
    ("POST", "/api/v0/autojobs"): Scope.OPERATE,
    ("PUT", "/api/v0/autojobs/{group_id}"): Scope.OPERATE,
    ("GET", "/api/v0/autojobs/{group_id}"): Scope.READ,
    ("DELETE", "/api/v0/autojobs/{group_id}"): Scope.OPERATE,
    ("GET", "/api/v0/workergroups"): Scope.READ,
    ("POST", "/api/v0/workergroups"): Scope.OPERATE,
    ("GET", "/api/v0/workergroups/{group_id}"): Scope.READ,
    ("PUT", "/api/v0/workergroups/{group_id}"): Scope.OPERATE,
    ("DELETE", "/api/v0/workergroups/{group_id}"): Scope.OPERATE,
    ("GET", "/api/v0/template"): Scope.READ,
    ("POST", "/api/v0/template"): Scope.OPERATE,
    ("PUT", "/api/v0/template"): Scope.OPERATE,
    ("PUT", "/api/v1/template"): Scope.OPERATE,
    ("DELETE", "/api/v0/template"): Scope.OPERATE,
    ("POST", "/api/v0/bundles"): Scope.READ,
    ("PUT", "/api/v0/search/asks"): Scope.READ,
    ("GET", "/api/v0/benchmarks"): Scope.READ,
    ("GET", "/api/v0/instances"): Scope.READ,
    ("GET", "/api/v1/instances"): Scope.READ,
    ("GET", "/api/v0/instances/{worker_id}"): Scope.READ,
    # Secrets are given to workers, and whoever may make a template says what those do with them.
    ("GET", "/api/v0/secrets"): Scope.OPERATE,
    ("POST", "/api/v0/secrets"): Scope.OPERATE,
    ("PUT", "/api/v0/secrets"): Scope.OPERATE,
    ("DELETE", "/api/v0/secrets"): Scope.OPERATE,
    ("POST", "/update_workers"): Scope.OPERATE,
    ("POST", "/get_endpoint_workers"): Scope.ROUTE,
    ("POST", "/get_autogroup_workers"): Scope.ROUTE,
    ("POST", "/get_workergroup_workers"): Scope.ROUTE,
    ("POST", "/get_endpoint_logs"): Scope.READ,
    ("POST", "/get_autogroup_logs"): Scope.READ,
    ("POST", "/get_workergroup_logs"): Scope.READ,
    # Our own.
    ("GET", "/v1/status"): Scope.READ,
    ("GET", "/v1/endpoints"): Scope.ROUTE,
    ("GET", "/v1/endpoints/{endpoint}/explain"): Scope.READ,
    ("GET", "/v1/endpoints/{endpoint}/journal"): Scope.READ,
    ("GET", "/v1/endpoints/{endpoint}/traffic"): Scope.READ,
    ("POST", "/v1/endpoints/{endpoint}/rotate-key"): Scope.OPERATE,
    ("GET", "/v1/aliases"): Scope.ROUTE,
    ("PUT", "/v1/aliases/{name}"): Scope.OPERATE,
    ("DELETE", "/v1/aliases/{name}"): Scope.OPERATE,
    ("GET", "/v1/providers"): Scope.READ,
    ("POST", "/v1/providers/{name}/check"): Scope.OPERATE,
    ("GET", "/v1/offers"): Scope.READ,
    ("GET", "/v1/events"): Scope.READ,
    ("GET", "/v1/workers"): Scope.READ,
    ("DELETE", "/v1/workers/{worker_id}"): Scope.OPERATE,
    ("GET", "/v1/workers/{worker_id}/logs"): Scope.READ,
    ("GET", "/v1/keys"): Scope.ADMIN,
    ("POST", "/v1/keys"): Scope.ADMIN,
    ("PUT", "/v1/keys/{key_id}"): Scope.ADMIN,
    ("DELETE", "/v1/keys/{key_id}"): Scope.ADMIN,
    ("GET", "/v1/orphans"): Scope.ADMIN,
    ("POST", "/v1/orphans/adopt"): Scope.ADMIN,
    ("POST", "/v1/orphans/destroy"): Scope.ADMIN,
    ("GET", "/v1/accounts"): Scope.ADMIN,
    ("POST", "/v1/accounts"): Scope.ADMIN,
}
"""By method and path. The least scope of the key that a caller must show. An endpoint's own key has the scope ROUTE:
what is open to it must also ask `middleware.check_endpoint`, so that it reaches no other endpoint."""
