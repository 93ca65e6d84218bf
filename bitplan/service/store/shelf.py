"""A folder of files by the digest of their bytes: each content once, never changed."""

import hashlib
import os
import shutil
from pathlib import Path

from bitplan.errors import InternalError
from bitplan.files import file_digest, make_folder, replacing


class Shelf:
    """Files by digest; it knows no database, so a job's process can use it, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)

    def add(self, content: Path | bytes, *, move: bool = False) -> str:
        """Keep a file or bytes, and give the digest. Raises `OutputError`, as on a full disk.

        With `move` the file itself is kept where it is on the same disk, and gone from its place.
        """
        digest = digest_of(content)
        path = self._place(digest)
        if path.is_file():
            return digest
        with replacing(path) as temporary:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            elif move:
                shutil.move(content, temporary)
            else:
                shutil.copyfile(content, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # the database is going to say that it is there
            temporary.chmod(0o440)
        return digest

    def path(self, digest: str) -> Path:
        """Where a content lies. Raises `InternalError` when it does not."""
        path = self._place(digest)
        if not path.is_file():
            raise InternalError(
                f"The artefact {digest} is not in {self.folder}, though the database has it. "
                "Restore the folder, or run its job again."
            )
        return path

    def __contains__(self, digest: str) -> bool:
        return self._place(digest).is_file()

    def _place(self, digest: str) -> Path:
        assert len(digest) == 64, digest
        return self.folder / digest[:2] / digest


def digest_of(content: Path | bytes) -> str:
    """sha256, in hexadecimal."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return file_digest(content)
