"""The page's routes: shells without data, so that none of them needs a token."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.types import Scope

from bitplan.service.page.plots import add_plots

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"


class _Assets(StaticFiles):
    """The page's own files: a browser asks each time whether they have changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page and its files: `/`, `/jobs/{id}`, `/login`, `/static/...`."""
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    modules = sorted(path.name for path in _STATIC.glob("*.js"))

    def shell(name: str, **values: str) -> HTMLResponse:
        text = templates.get_template(f"{name}.html.j2").render(modules=modules, **values)
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    def jobs() -> HTMLResponse:
        return shell("jobs")

    @app.get("/jobs/{job_id}", include_in_schema=False)
    def job(job_id: str) -> HTMLResponse:
        return shell("job", job_id=job_id)

    @app.get("/login", include_in_schema=False)
    def login() -> HTMLResponse:
        return shell("login")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(
            (_STATIC / "icon.svg").read_bytes(),
            media_type="image/svg+xml",
            headers={"Cache-Control": "max-age=86400"},
        )

    add_plots(app)
    app.mount("/static", _Assets(directory=_STATIC), name="static")
