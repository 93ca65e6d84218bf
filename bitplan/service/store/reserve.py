"""Room on the database's disk for the moment when there is no other: it is let go bit by bit.

Jobs work on the same disk by default. When they have filled it they fail, which somebody must be
able to write down.
"""

import contextlib
import os
import shutil
from pathlib import Path

MOST_BYTES = 64 << 20
SHARE = 20
"""No more is kept than the free space by this."""


class Reserve:
    """A file that only takes room. Any number of processes may keep it, and let it go."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self) -> None:
        """Make it as large as it is to be, where the disk has that much and far more."""
        # What fails here would have failed without a reserve, too.
        with contextlib.suppress(OSError), self._file.open("ab") as file:
            size = min(MOST_BYTES, shutil.disk_usage(self._file.parent).free // SHARE)
            if size > os.fstat(file.fileno()).st_size:
                _allocate(file.fileno(), size)

    def let_go(self) -> None:
        """Free half of it: what else fills the disk may take that before whoever needs it."""
        with contextlib.suppress(OSError):
            os.truncate(self._file, self._file.stat().st_size // 2)


def _allocate(number: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(number, 0, size)
        return
    os.lseek(number, 0, os.SEEK_END)
    while (missing := size - os.fstat(number).st_size) > 0:
        os.write(number, bytes(min(missing, 1 << 20)))
