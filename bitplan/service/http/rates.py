"""How often one caller may ask: `limits` counts, in memory or in the queue's Redis."""

import logging
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from bitplan.service.http.problems import ProblemError
from bitplan.service.settings import ServiceSettings

log = logging.getLogger(__name__)

WRONG_TOKENS = "30/minute"
"""From one address; a token has 256 bits, so this is about load and logs, not about guessing."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The limits, and who used how much of them."""

    read: RateLimitItem
    submit: RateLimitItem
    wrong: RateLimitItem
    limiter: SlidingWindowCounterRateLimiter

    @classmethod
    def of(cls, settings: ServiceSettings) -> "Rates":
        """As the service is set."""
        return cls(
            read=parse(settings.read_rate),
            submit=parse(settings.submit_rate),
            wrong=parse(WRONG_TOKENS),
            limiter=SlidingWindowCounterRateLimiter(_storage(settings.redis_url)),
        )

    async def count(self, rate: RateLimitItem, what: str, caller: str) -> None:
        """Count one request. Raises `ProblemError` 429 for one too many."""
        try:
            allowed = await self.limiter.hit(rate, what, caller)
        except StorageError:
            log.warning("rates are not counted now", exc_info=True)
            return
        if not allowed:
            await self._refuse(rate, what, caller)

    async def _refuse(self, rate: RateLimitItem, what: str, caller: str) -> None:
        # The window slides: long before its end some of it is free again.
        wait_s = max(1, round(rate.get_expiry() / rate.amount))
        plural = f"{rate.amount} in {rate.multiples if rate.multiples > 1 else 'a'}"
        raise ProblemError(
            429,
            f"That is more than the {plural} {rate.GRANULARITY.name} that one caller may ask "
            f"here ({what}). Wait {wait_s} s, or ask less often.",
            headers={"Retry-After": str(wait_s)},
        )


def _storage(redis_url: str | None) -> Storage:
    if redis_url is None:
        return MemoryStorage()
    uri = redis_url if redis_url.startswith("async+") else f"async+{redis_url}"
    return RedisStorage(uri, wrap_exceptions=True, implementation="redispy", key_prefix="bitplan")
