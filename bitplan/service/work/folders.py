"""Work folders: what jobs keep there, a later attempt or another budget goes on from.

There is one for each owner and model, not one for each job, so that a second budget or the applying
of a plan finds what was measured and rendered. The library keys all in it by what it was made of,
and two processes may use it at once. A job's disk limit is on its folder. What earlier jobs left
there must not be in a later one's way: a folder that is over the limit when a job begins, and that
nobody else uses, is emptied first.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bitplan.files import make_folder
from bitplan.service.records import Job
from bitplan.service.work.limits import folder_bytes

log = logging.getLogger(__name__)


class Folders:
    """The work folders of one machine, each with a lock that those who use it share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def use(self, job: Job, *, limit_gb: float | None = None) -> Iterator[Path]:
        """The folder of a job, kept from removal for as long as the block lasts.

        Raises `OutputError` where it cannot be made.
        """
        key = _key(job.owner, job.request.parameters.model)
        make_folder(self.folder)
        with (self.folder / f"{key}.lock").open("a") as lock:
            os.utime(lock.fileno())
            path = self.folder / key
            if limit_gb is not None and folder_bytes(path) > limit_gb * 1e9:
                self._remove(path, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield make_folder(path)
            os.utime(lock.fileno())

    def remove_old(self, keep_days: float) -> list[Path]:
        """Remove the folders that no job has used for so long."""
        removed = []
        for file in sorted(self.folder.glob("*.lock")):
            path = file.with_suffix("")
            if path.is_dir() and time.time() - file.stat().st_mtime > keep_days * 86400:
                with file.open("a") as lock:
                    removed += [path] if self._remove(path, lock) else []
        return removed

    def _remove(self, path: Path, lock: IO[str]) -> bool:
        """Unless somebody uses it."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(path, ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_UN)
        log.info("Removed the work folder %s", path)
        return True


def _key(owner: str, model: str) -> str:
    return hashlib.sha256(f"{owner}\0{model}".encode()).hexdigest()[:24]
