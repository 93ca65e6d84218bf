"""Tokens that were looked up a moment ago, so that not every request asks the database."""

import hashlib
import time

from bitplan.service.http.threads import in_thread
from bitplan.service.records import Token
from bitplan.service.store import Tokens

KEPT_S = 1.0
"""How long a token may still work that was revoked elsewhere, as by `bitplan token revoke`."""

MOST = 1000


class KnownTokens:
    """Tokens by the digest of their secrets."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._known: dict[bytes, tuple[Token, float]] = {}

    async def check(self, secret: str) -> Token | None:
        """The token of a secret, if it is good."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        token, until = self._known.get(digest, (None, 0.0))
        if token is not None and time.monotonic() < until and not _is_over(token):
            return token
        token = await in_thread(self._tokens.check, secret)
        if token is None:
            self._known.pop(digest, None)
            return None
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[digest] = token, time.monotonic() + KEPT_S
        return token

    def forget(self) -> None:
        """Ask the database again for every token."""
        self._known.clear()


def _is_over(token: Token) -> bool:
    return token.expires_at is not None and token.expires_at.timestamp() <= time.time()
