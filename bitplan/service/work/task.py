"""What a job's process is told when it starts, and the desk where it hands in what it makes."""

import json
import mimetypes
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bitplan.service.parameters import Parameters
from bitplan.service.records import Artefact
from bitplan.service.store.shelf import Shelf

_EVERY_S = 0.05
"""Between two messages of progress from one stage."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job for its process. `known`: what earlier attempts made, name -> digest."""

    job: str
    parameters: Parameters
    workdir: Path
    shelf: Path
    known: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """Where files lie until they are handed in."""
        return self.workdir / f"out-{self.job}"


class Desk:
    """The job's side of the pipe to its worker; a progress that takes remarks.

    After the worker has asked to stop nothing is handed in any more: the library may return the
    best plan so far, which another attempt must not take for the job's.
    """

    def __init__(self, task: Task, pipe: Connection) -> None:
        self.task = task
        self.is_stopping = False
        self._pipe = pipe
        self.shelf = Shelf(task.shelf)
        self._digests = dict(task.known)
        self._lock = threading.Lock()
        self._stage, self._told_s = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is: its first and last turns always, some of those between."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._told_s < _EVERY_S:
            return
        self._stage, self._told_s = stage, now
        self.send("progress", stage=stage, done=done, total=total)

    def remark(self, stage: str, text: str) -> None:
        """Tell how good things are."""
        self.send("remark", stage=stage, text=text)

    def put(self, name: str, content: Path | bytes) -> None:
        """Hand in a file, which is then gone from its place, or bytes."""
        self._check()
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        media_type, _ = mimetypes.guess_type(name)
        artefact = Artefact(
            name=name,
            digest=self.shelf.add(content, move=True),
            bytes=size,
            media_type=media_type or "application/octet-stream",
        )
        self.send("artefact", **artefact.model_dump())
        self._digests[name] = artefact.digest

    def path(self, name: str) -> Path | None:
        """Where a file lies that this attempt or an earlier one handed in."""
        digest = self._digests.get(name, "")
        return self.shelf.path(digest) if digest and digest in self.shelf else None

    def send(self, kind: str, **data: Any) -> None:
        """Send a message to the worker."""
        self._check()
        with self._lock:
            self._pipe.send_bytes(json.dumps({"kind": kind, **data}).encode())

    def _check(self) -> None:
        if self.is_stopping:
            raise KeyboardInterrupt
