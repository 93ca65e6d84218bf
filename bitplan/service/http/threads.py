"""The store is synchronous: what asks it runs in a thread, so that the event loop goes on."""

from collections.abc import Callable
from typing import Any, TypeVar

from anyio.to_thread import run_sync

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """What the function returns, called in one of the server's threads."""
    return await run_sync(lambda: function(*arguments, **keywords))
