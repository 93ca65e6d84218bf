"""What jobs made: lists, files, and a compressed checkpoint as one tar."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi import Path as PathParameter
from starlette.datastructures import Headers
from starlette.responses import FileResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from bitplan.service.context import set_job_id
from bitplan.service.http.answers import answer
from bitplan.service.http.caller import Reader
from bitplan.service.http.headers import FILE_POLICY, REPORT_POLICY
from bitplan.service.http.problems import ProblemError
from bitplan.service.http.state import Parts
from bitplan.service.records import Artefact, JobId

CHUNK = 1 << 20
MODEL = "model/"
REPORT = "report.html"

router = APIRouter(tags=["artefacts"])


@router.get("/v1/jobs/{job_id}/artefacts", summary="What a job made", response_model=list[Artefact])
def list_artefacts(job_id: JobId, service: Parts, caller: Reader) -> Response:
    """Names, sizes and digests."""
    return answer(list(service.store.jobs.get(job_id, owner=caller.owner).artefacts))


@router.get(
    "/v1/jobs/{job_id}/artefacts/{name:path}",
    summary="A file that a job made",
    response_class=FileResponse,
    responses={
        200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "Part of it", "content": {"*/*": {}}},
        304: {"description": "As it was"},
    },
)
def get_artefact(
    job_id: JobId,
    name: Annotated[str, PathParameter(max_length=500)],
    service: Parts,
    caller: Reader,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file; its ETag is its digest. Ranges may be asked for."""
    set_job_id(job_id)
    made = service.store.jobs.get(job_id, owner=caller.owner).artefacts
    # Only names that the job has are looked up, so a name is never a path of this machine.
    artefact = next((one for one in made if one.name == name), None)
    if artefact is None:
        raise ProblemError(404, f"Job {job_id} made no such file. See the list of its artefacts.")
    return file_answer(
        artefact,
        service.store.artefacts.path(artefact.digest),
        if_none_match=if_none_match,
        is_page=name == REPORT,
    )


@router.get(
    "/v1/jobs/{job_id}/model.tar",
    summary="The compressed checkpoint",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def get_model(job_id: JobId, service: Parts, caller: Reader) -> Response:
    """All files of model/ as a tar; bitplan.load reads the folder that it unpacks to."""
    set_job_id(job_id)
    job = service.store.jobs.get(job_id, owner=caller.owner)
    files = sorted(
        (one for one in job.artefacts if one.name.startswith(MODEL)), key=lambda one: one.name
    )
    if not files:
        raise ProblemError(
            404, f"Job {job_id} made no model: apply and compress do, when they succeed."
        )
    shelf = service.store.artefacts
    headers = {
        "Content-Disposition": f'attachment; filename="model-{job_id[:8]}.tar"',
        "Content-Security-Policy": FILE_POLICY,
        "Content-Length": str(_tar_bytes(files)),
    }
    parts = _tar([(one, shelf.path(one.digest)) for one in files])
    return StreamingResponse(parts, headers=headers, media_type="application/x-tar")


class File(FileResponse):
    """A file or a part of it; a range that cannot be had is a problem, not Starlette's text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        refused: ProblemError | None = None

        async def tell(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                kept = Headers(raw=message["headers"]).get("content-range")
                refused = ProblemError(
                    message["status"],
                    "The header Range asks for what the file does not have, or says no range. Ask "
                    "for bytes=FIRST-LAST within the file, or leave it out.",
                    headers={"Content-Range": kept} if kept else None,
                )
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, tell)
        if refused is not None:
            await refused.response(scope, receive, send)


def file_answer(
    artefact: Artefact, path: Path, *, if_none_match: str | None, is_page: bool = False
) -> Response:
    """A file from the shelf; a browser saves it, but for pages, which it shows in a sandbox."""
    etag = f'"{artefact.digest}"'
    headers = {
        "ETag": etag,
        "Content-Security-Policy": REPORT_POLICY if is_page else FILE_POLICY,
        "Cache-Control": "private, no-cache",
    }
    if if_none_match is not None and etag in (part.strip() for part in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    return File(
        path,
        headers=headers,
        media_type=artefact.media_type,
        filename=artefact.name.rpartition("/")[2],
        content_disposition_type="inline" if is_page else "attachment",
    )


def _tar(files: list[tuple[Artefact, Path]]) -> Iterator[bytes]:
    """The bytes of a tar file. No times and owners: the same files give the same bytes."""
    for artefact, path in files:
        yield _header(artefact)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        yield b"\0" * (-artefact.bytes % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _tar_bytes(files: list[Artefact]) -> int:
    block = tarfile.BLOCKSIZE
    return 2 * block + sum(len(_header(one)) + -(-one.bytes // block) * block for one in files)


def _header(artefact: Artefact) -> bytes:
    info = tarfile.TarInfo(artefact.name)
    info.size, info.mode = artefact.bytes, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)
