"""Calls of the solver's process, timed; not made for callers that are gone."""

import time
from typing import Any

from fastapi import Request

from bitplan.service.http.state import Service

SLACK_S = 20.0
"""Beside the search: reading a table, and waiting for a processor."""


async def timed(
    service: Service, request: Request, function: str, *arguments: Any, limit_s: float
) -> Any:
    """What a function of the solver's process returns. Raises `ProblemError`."""

    async def is_wanted() -> bool:
        return not await request.is_disconnected()

    start = time.perf_counter()
    try:
        return await service.solver.call(
            function, *arguments, time_limit_s=limit_s + SLACK_S, is_wanted=is_wanted
        )
    finally:
        service.metrics.solve(function, time.perf_counter() - start)
