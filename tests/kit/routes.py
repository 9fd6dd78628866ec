"""The calls that an application answers."""

from fastapi import FastAPI
from starlette.routing import Route


def calls(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the application answers. A mount or a router inside would hide some of them."""
    found = set()
    for route in app.routes:
        assert isinstance(route, Route), f"{route} is no plain route"
        found |= {(method, getattr(route, "path_format", route.path)) for method in route.methods or ()}
    return found
