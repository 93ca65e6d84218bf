"""The process for heavy work: ended when it takes too long, anew when it died."""

import asyncio
import os
import time

import pytest

from bitplan.service.http.pool import Pool
from bitplan.service.http.problems import ProblemError


def test_calls_that_take_too_long_and_the_next():
    async def calls() -> None:
        pool = Pool("naps", "time")  # functions of any module
        try:
            assert await pool.call("sleep", 0, time_limit_s=60) is None
            start = time.monotonic()
            with pytest.raises(ProblemError, match=r"more than 0\.2 s") as late:
                await pool.call("sleep", 600, time_limit_s=0.2)
            assert late.value.status == 504
            assert time.monotonic() - start < 300
            assert await pool.call("sleep", 0, time_limit_s=60) is None
            with pytest.raises(RuntimeError, match="sleep failed in the naps process"):
                await pool.call("sleep", "x", time_limit_s=60)
        finally:
            pool.close()

    asyncio.run(calls())


def test_a_process_that_dies():
    async def calls() -> None:
        pool = Pool("ends", "os")
        try:
            mine = await pool.call("getpid", time_limit_s=60)
            assert mine != os.getpid()
            with pytest.raises(ProblemError, match="died"):
                await pool.call("_exit", 1, time_limit_s=60)
            other = await pool.call("getpid", time_limit_s=60)
            assert other != mine
            os.kill(other, 9)
            assert pool._process is not None
            pool._process.join()
            assert await pool.call("getpid", time_limit_s=60) not in (mine, other)
        finally:
            pool.close()

    asyncio.run(calls())


def test_a_caller_that_went_away_is_not_served():
    async def is_wanted() -> bool:
        return False

    async def calls() -> None:
        with pytest.raises(ProblemError, match="went away"):
            await Pool("never", "os").call("abort", time_limit_s=1, is_wanted=is_wanted)

    asyncio.run(calls())


def test_closing_while_it_starts_starts_no_other():
    async def calls() -> None:
        pool = Pool("naps", "time")
        warming = asyncio.create_task(pool.call("sleep", 600, time_limit_s=900))
        while pool._process is None:
            await asyncio.sleep(0.01)
        pool.close()
        with pytest.raises(ProblemError):
            await warming
        assert pool._process is None

    asyncio.run(calls())
