"""The plotting library's own file, as its installed package brings it: no internet is needed."""

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response

PATH = "/static/plotly.min.js"


def add_plots(app: FastAPI) -> None:
    """Serve plotly.min.js, compressed where the browser takes that."""

    @app.get(PATH, include_in_schema=False)
    def plotly(request: Request) -> Response:
        packed, tag = _packed()
        # It changes with the installed package alone: a day old is as good as new.
        headers = {"Cache-Control": "max-age=86400", "ETag": tag, "Vary": "Accept-Encoding"}
        if tag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        accepted = request.headers.get("Accept-Encoding", "")
        if "gzip" in accepted:
            headers["Content-Encoding"] = "gzip"
            return Response(packed, media_type="text/javascript", headers=headers)
        return Response(gzip.decompress(packed), media_type="text/javascript", headers=headers)


@cache
def _packed() -> tuple[bytes, str]:
    """The file, compressed, and its ETag."""
    # The package itself takes a second to import and is not needed for its file.
    spec = find_spec("plotly")
    origin = spec.origin if spec else None
    assert origin is not None, "plotly comes with the extra `service`"
    content = (Path(origin).parent / "package_data" / "plotly.min.js").read_bytes()
    return gzip.compress(
        content, compresslevel=6, mtime=0
    ), f'"{hashlib.sha256(content).hexdigest()}"'
