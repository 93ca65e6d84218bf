"""The page's routes: shells without data, so that none of them needs a token."""

import re
from pathlib import Path

from fastapi import FastAPI
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

from bitplan.effort import EFFORTS
from bitplan.service.page.assets import add_assets, assets

_TEMPLATES = Path(__file__).parent / "templates"
_IMPORT = re.compile(r'^(?:import|\} from) .*?"\./([\w.]+)";$', re.MULTILINE)


def add_page(app: FastAPI) -> None:
    """Serve the page and its files: `/`, `/jobs/{id}`, `/login`, `/static/...`."""
    static = add_assets(app)
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shells = {
        name: templates.get_template(f"{name}.html.j2").render(
            static=static, modules=modules_of(f"{name}.js"), efforts=EFFORTS
        )
        for name in ("jobs", "job", "login")
    }

    def answer(name: str) -> HTMLResponse:
        return HTMLResponse(shells[name], headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def jobs() -> HTMLResponse:
        return answer("jobs")

    @app.get("/jobs/{job_id}", include_in_schema=False)
    async def job(job_id: str) -> HTMLResponse:
        return answer("job")

    @app.get("/login", include_in_schema=False)
    async def login() -> HTMLResponse:
        return answer("login")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> RedirectResponse:
        return RedirectResponse(f"{static}/icon.svg")


def modules_of(name: str) -> list[str]:
    """A module and all that it imports, so that a browser asks for them at once."""
    found = [name]
    for each in found:
        imported = _IMPORT.findall(assets()[each].content.decode())
        found += [one for one in dict.fromkeys(imported) if one not in found]
    return found
