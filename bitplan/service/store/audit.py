"""Who did what, when, from where: a log that is only ever appended to."""

import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select

from bitplan.service.store.database import Database
from bitplan.service.store.rows import moment
from bitplan.service.store.tables import audit


@dataclass(frozen=True, kw_only=True)
class Note:
    """One deed. `actor` is a token's name, `subject` a job's id or the like."""

    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str
    address: str


class Audit:
    """The log of deeds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(
        self, actor: str, action: str, subject: str, request_id: str = "", address: str = ""
    ) -> None:
        """Append a deed."""
        values = {
            "at": time.time(),
            "actor": actor[:200],
            "action": action[:100],
            "subject": subject[:500],
            "request_id": request_id[:100],
            "address": address[:100],
        }
        with self._database.write() as connection:
            connection.execute(insert(audit).values(**values))

    def list(self, limit: int = 100) -> list[Note]:
        """The last deeds, newest first."""
        query = select(audit).order_by(audit.c.number.desc()).limit(limit)
        with self._database.read() as connection:
            return [
                Note(
                    at=moment(row.at),
                    actor=row.actor,
                    action=row.action,
                    subject=row.subject,
                    request_id=row.request_id,
                    address=row.address,
                )
                for row in connection.execute(query)
            ]
