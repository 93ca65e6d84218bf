"""Bearer tokens: the database has their digests, so whoever reads it cannot use them."""

import hashlib
import hmac
import secrets
import time
from typing import Any

from sqlalchemy import Row, insert, select, update

from bitplan.service.records import Scope, Token
from bitplan.service.store.database import Database
from bitplan.service.store.errors import NoSuchToken
from bitplan.service.store.rows import moment, perhaps_moment
from bitplan.service.store.tables import tokens

PREFIX = "bpl_"
"""So that a secret is seen to be one, by people and by scanners of what is published."""


class Tokens:
    """Tokens by name; several may have one name, and then see the same jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, scope: Scope, expires_in_s: float | None = None
    ) -> tuple[Token, str]:
        """A token, and its secret, which is shown this once: 32 random bytes."""
        secret, now = PREFIX + secrets.token_urlsafe(32), time.time()
        values = {
            "id": secrets.token_hex(8),
            "name": name,
            "scope": scope.value,
            "secret_digest": _digest(secret),
            "created_at": now,
            "expires_at": None if expires_in_s is None else now + expires_in_s,
        }
        with self._database.write() as connection:
            connection.execute(insert(tokens).values(**values))
            row = connection.execute(select(tokens).where(tokens.c.id == values["id"])).one()
        return _token(row), secret

    def check(self, secret: str) -> Token | None:
        """The token of a secret, unless it is unknown, revoked or has expired."""
        digest = _digest(secret)
        query = select(tokens).where(tokens.c.secret_digest == digest)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        # What the index's search tells by its time is about the digest, which nobody can choose.
        if row is None or not hmac.compare_digest(row.secret_digest, digest):
            return None
        is_over = row.expires_at is not None and row.expires_at <= time.time()
        return None if is_over or row.revoked_at is not None else _token(row)

    def list(self) -> list[Token]:
        """All tokens, oldest first, also those that are of no use any more."""
        query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
        with self._database.read() as connection:
            return [_token(row) for row in connection.execute(query)]

    def revoke(self, token_id: str) -> Token:
        """Make a token useless from now on. Raises `NoSuchToken`."""
        with self._database.write() as connection:
            connection.execute(
                update(tokens)
                .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            )
            query = select(tokens).where(tokens.c.id == token_id)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NoSuchToken(f"There is no token {token_id}. See bitplan token list.")
        return _token(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        scope=Scope(row.scope),
        created_at=moment(row.created_at),
        expires_at=perhaps_moment(row.expires_at),
        revoked_at=perhaps_moment(row.revoked_at),
    )
