"""The files of the page, in memory, at an address that changes when one of them does.

So a browser asks for each once and keeps it, and never mixes files of two versions. plotly's file
is among them, as its installed package brings it: no internet is needed.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
PLOTLY = "plotly.min.js"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEEP = {"Cache-Control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file and its compressed form."""

    content: bytes
    packed: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """All files by name."""
    paths = [path for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES]
    return {path.name: _asset(path) for path in (*paths, _plotly())}


@cache
def version() -> str:
    """Of all files together."""
    digest = hashlib.sha256()
    for name, asset in assets().items():
        digest.update(f"{name} {len(asset.content)}\n".encode() + asset.content)
    return digest.hexdigest()[:12]


def add_assets(app: FastAPI) -> str:
    """Serve the files, compressed where the browser takes that; gives the folder's address."""

    @app.get("/static/{version}/{name}", include_in_schema=False)
    async def asset(version: str, name: str, request: Request) -> Response:
        found = assets().get(name)
        if found is None:
            raise HTTPException(404, f"The page has no file {name}.")
        headers = {**KEEP, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return Response(found.content, media_type=found.media_type, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(found.packed, media_type=found.media_type, headers=headers)

    return f"/static/{version()}"


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    return Asset(content=content, packed=packed, media_type=TYPES[path.suffix])


def _plotly() -> Path:
    # The package itself takes a second to import and is not needed for its file.
    spec = find_spec("plotly")
    origin = spec.origin if spec else None
    assert origin is not None, "plotly comes with the extra `service`"
    return Path(origin).parent / "package_data" / PLOTLY
