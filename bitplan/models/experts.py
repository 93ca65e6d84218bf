"""How the experts of a mixture are run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def eager_experts(model: nn.Module) -> Iterator[None]:
    """Run experts one after another within the block, so that each one's matmul can be seen.

    Another way that is chosen within it, as where experts are packed, stays.
    """
    switch: Any = model
    if not hasattr(model, "get_experts_implementation"):
        yield
        return
    before = switch.get_experts_implementation()
    switch.set_experts_implementation("eager")
    ours = switch.get_experts_implementation()
    try:
        yield
    finally:
        interrupt = None
        is_ours = switch.get_experts_implementation() == ours
        while is_ours and switch.get_experts_implementation() != before:
            try:
                switch.set_experts_implementation(before)
            except KeyboardInterrupt as again:  # the model is given back all the same
                interrupt = again
        if interrupt is not None:
            raise interrupt
