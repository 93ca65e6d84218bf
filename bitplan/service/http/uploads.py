"""Files that people send: streamed to disk, checked in a process of its own, then kept."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fastapi import Request

from bitplan.files import make_folder
from bitplan.service.http.caller import Caller
from bitplan.service.http.problems import ProblemError, cannot_keep
from bitplan.service.http.state import Service
from bitplan.service.http.threads import in_thread
from bitplan.service.records import Artefact

SEND_S = 600.0
CHECK_S = 60.0
FUNCTIONS = {"costs.json": "check_table", "plan.json": "check_plan"}


async def keep(request: Request, service: Service, caller: Caller, name: str) -> Artefact:
    """Keep the body of a request as a table or a plan of the caller's.

    Raises `ProblemError` for what is no such file.
    """
    folder = await in_thread(make_folder, service.settings.folder / "uploads")
    async with _received(request, folder) as path:
        await service.reader.call(FUNCTIONS[name], str(path), time_limit_s=CHECK_S)
        return await in_thread(
            service.store.artefacts.keep,
            path,
            name=name,
            owner=caller.name,
            media_type="application/json",
        )


@asynccontextmanager
async def _received(request: Request, folder: Path) -> AsyncIterator[Path]:
    """The body in a file, which is removed in the end."""
    with _writing():
        handle, name = await in_thread(tempfile.mkstemp, dir=folder, suffix=".json")
    try:
        with _writing(), os.fdopen(handle, "wb") as file:
            async with asyncio.timeout(SEND_S):
                async for chunk in request.stream():
                    file.write(chunk)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except TimeoutError:  # which is an OSError, too
        raise ProblemError(408, f"It was not sent within {SEND_S:g} s.") from None
    except OSError as error:
        raise cannot_keep() from error
