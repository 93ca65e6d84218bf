"""The artefacts: files on a shelf, and who made which of them."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import insert, select

from bitplan.service.records import Artefact, JobId
from bitplan.service.store.database import Database
from bitplan.service.store.rows import artefact_of, moment
from bitplan.service.store.shelf import Shelf
from bitplan.service.store.tables import artefacts


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An artefact, and whence it is; `job` None: its owner sent it."""

    artefact: Artefact
    job: JobId | None
    owner: str
    created_at: datetime


class Artefacts:
    """Files that jobs made and people sent. An `owner` of None may see all."""

    def __init__(self, database: Database, shelf: Shelf) -> None:
        self._database = database
        self.shelf = shelf

    def keep(self, content: Path | bytes, *, name: str, owner: str, media_type: str) -> Artefact:
        """Keep what somebody sent, and note that it is theirs; the same again changes nothing."""
        digest = self.shelf.add(content)
        known = self.find(digest, name=name, owner=owner)
        if known is not None:
            return known
        size = self.shelf.path(digest).stat().st_size
        artefact = Artefact(name=name, digest=digest, bytes=size, media_type=media_type)
        with self._database.write() as connection:
            connection.execute(
                insert(artefacts).values(
                    owner=owner, created_at=time.time(), **artefact.model_dump()
                )
            )
        return artefact

    def path(self, digest: str) -> Path:
        """Where a content lies."""
        return self.shelf.path(digest)

    def of(self, job_id: JobId) -> list[Artefact]:
        """What a job made."""
        query = select(artefacts).where(artefacts.c.job == job_id).order_by(artefacts.c.number)
        with self._database.read() as connection:
            return [artefact_of(row) for row in connection.execute(query)]

    def find(self, digest: str, *, name: str, owner: str | None = None) -> Artefact | None:
        """The artefact of a digest and a name that the owner may see."""
        query = select(artefacts).where(artefacts.c.digest == digest, artefacts.c.name == name)
        if owner is not None:
            query = query.where(artefacts.c.owner == owner)
        with self._database.read() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        return None if row is None else artefact_of(row)

    def listing(self, name: str, *, owner: str | None = None, limit: int = 50) -> list[Kept]:
        """The artefacts of a name, as plan.json, newest first; each content once."""
        query = select(artefacts).where(artefacts.c.name == name)
        if owner is not None:
            query = query.where(artefacts.c.owner == owner)
        found: dict[str, Kept] = {}
        with self._database.read() as connection:
            for row in connection.execute(query.order_by(artefacts.c.number.desc())):
                if len(found) == limit:
                    break
                kept = Kept(
                    artefact=artefact_of(row),
                    job=row.job,
                    owner=row.owner,
                    created_at=moment(row.created_at),
                )
                found.setdefault(row.digest, kept)
        return list(found.values())
