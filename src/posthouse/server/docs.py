"""The interactive description of the API at /docs, with its scripts from here: it works without the internet."""

from importlib import resources

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from posthouse.domain.errors import NotFound

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Files of Swagger UI, as the package fastapi-offline ships them, and their types."""


def add_docs_routes(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Posthouse",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="data:,",
        )

    @app.get("/docs/{asset}", include_in_schema=False)
    def docs_asset(asset: str) -> Response:
        if asset not in ASSETS:
            raise NotFound(f"there is no {asset[:64]!r} here; there are: {', '.join(ASSETS)}")
        content = resources.files("fastapi_offline").joinpath("static", asset).read_bytes()
        return Response(content, media_type=ASSETS[asset])
