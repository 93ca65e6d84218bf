"""A job's artefacts to files: whole or not at all, and not again what is there already."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from bitplan.errors import OutputError, RefusedError, ServiceError
from bitplan.files import file_digest, make_folder
from bitplan.progress import Progress
from bitplan.service.client.backoff import pauses
from bitplan.service.client.calls import Calls, path_of
from bitplan.service.client.problems import unreachable
from bitplan.service.client.steps import Flow, Lost, Pause, Read, Send, Work
from bitplan.service.records import Artefact, Job


def fetching(
    calls: Calls, job: Job, folder: Path, only: Sequence[str], progress: Progress
) -> Flow[list[Path]]:
    """Fetch artefacts whose names match; returns their files, in the job's order.

    A file whose bytes are right already stays as it is. Any other comes to a hidden file beside its
    place, which is kept when the transfer ends early and gone on with the next time, and takes its
    name when its digest is right.
    """
    chosen = [each for each in job.artefacts if _is_chosen(each.name, only)]
    if not chosen:
        raise RefusedError(_nothing(job, only))
    targets = [folder / _safe(calls.server, each.name) for each in chosen]
    total = sum(each.bytes for each in chosen)
    with _alone(make_folder(folder)):
        done = 0
        progress("fetch", 0, max(total, 1))
        needed: list[tuple[Artefact, Path]] = []
        for artefact, path in zip(chosen, targets, strict=True):
            if (yield Work(function=partial(_is_there, artefact, path))):
                done += artefact.bytes
            else:
                needed.append((artefact, path))
        _check_room(folder, needed)
        for artefact, path in needed:
            download = _Download(
                calls=calls,
                source=path_of("jobs", job.id, "artefacts", artefact.name),
                artefact=artefact,
                path=path,
                tell=partial(_tell, progress, done, total),
            )
            yield from download.run()
            done += artefact.bytes
        progress("fetch", max(total, 1), max(total, 1))
    return targets


@dataclass(frozen=True, kw_only=True)
class _Download:
    """One artefact, from its path at the service to a file; `tell` takes bytes so far."""

    calls: Calls
    source: str
    artefact: Artefact
    path: Path
    tell: Callable[[int], None]

    @property
    def part(self) -> Path:
        """What came so far. Its name has the digest: parts of other contents are not mixed."""
        return _part(self.artefact, self.path)

    def run(self) -> Flow[None]:
        part, wanted = self.part, self.artefact
        make_folder(part.parent)
        if _size(part) > wanted.bytes:
            part.unlink()
        waits = pauses(self.calls.patience_s)
        while (have := _size(part)) < wanted.bytes or not part.exists():
            lost = yield from self._receive(have)
            if lost is None:
                break
            if _size(part) > have:
                waits = pauses(self.calls.patience_s)
            wait = next(waits, None)
            if wait is None:
                raise unreachable(self.calls.server, lost)
            yield Pause(seconds=wait)
        digest = yield Work(function=partial(file_digest, part))
        if digest != wanted.digest:
            part.unlink(missing_ok=True)
            raise ServiceError(
                f"{wanted.name} came damaged, or changed meanwhile: its sha256 is {digest}, that "
                f"of the job's file {wanted.digest}. Fetch again."
            )
        with _writing(self.path, part):
            part.replace(self.path)

    def _receive(self, have: int) -> Flow[Lost | None]:
        """Add bytes from `have` on; what is returned says why they ended early, if they did."""
        headers = {"accept-encoding": "identity"}  # the bytes that the digest is of
        if have:
            headers |= {"range": f"bytes={have}-", "if-range": f'"{self.artefact.digest}"'}
        send = Send(method="GET", path=self.source, headers=headers, stream=True)
        answer = yield from self.calls.call(send)
        goes_on = answer.status == 206
        now = have if goes_on else 0
        with _writing(self.path, self.part), self.part.open("ab" if goes_on else "wb") as file:
            while isinstance(chunk := (yield Read()), bytes) and chunk:
                now += len(chunk)
                file.write(chunk)
                if now > self.artefact.bytes:
                    return None  # its digest will not be the right one
                self.tell(now)
        if isinstance(chunk, Lost):
            return chunk
        if now < self.artefact.bytes:
            return Lost(reason=f"{self.artefact.name} ends early", was_sent=False)
        return None


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    """Whether a name is one of these, matches one, or is in a folder that one names."""
    return not only or any(
        fnmatchcase(name, each) or name.startswith(f"{each.rstrip('/')}/") for each in only
    )


def _nothing(job: Job, only: Sequence[str]) -> str:
    if job.artefacts:
        names = ", ".join(each.name for each in job.artefacts)
        return f"Job {job.id} has no file {', '.join(only)}. It has {names}."
    if job.state.has_ended:
        return f"Job {job.id} made no files: it is {job.state}. Look why: bitplan watch {job.id}"
    return f"Job {job.id} is {job.state} and has made no files yet. Wait: bitplan watch {job.id}"


def _safe(server: str, name: str) -> PurePosixPath:
    """A relative path that stays below; raises `ServiceError` for any other."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & set("\\:\0"):
        raise ServiceError(
            f"{server} names a file {name!r}, which would be written elsewhere. Do not trust it."
        )
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps others from fetching to the same files."""
    lock = FileLock(folder / ".bitplan-fetch.lock", timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise OutputError(
            f"Something else fetches to {folder} now. Wait for it, or choose another folder."
        ) from None


@contextmanager
def _writing(path: Path, part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kept = f" What came is in {part.name} there, to go on from." if part.exists() else ""
        raise OutputError(
            f"Cannot write {path}: {error.strerror}.{kept} Free some space or choose a folder that "
            "you may write to."
        ) from error


def _check_room(folder: Path, needed: Sequence[tuple[Artefact, Path]]) -> None:
    """Before hours of transfer rather than after."""
    more = sum(each.bytes - min(_size(_part(each, at)), each.bytes) for each, at in needed)
    free = shutil.disk_usage(folder).free
    if more > free:
        raise OutputError(
            f"The files take {more:,} bytes more, but the disk of {folder} has {free:,}. "
            f"Free some space or choose another folder."
        )


def _tell(progress: Progress, before: int, total: int, now: int) -> None:
    progress("fetch", min(before + now, total), total)


def _is_there(artefact: Artefact, path: Path) -> bool:
    return path.is_file() and _size(path) == artefact.bytes and file_digest(path) == artefact.digest


def _part(artefact: Artefact, path: Path) -> Path:
    return path.with_name(f".{path.name}.{artefact.digest[:16]}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
