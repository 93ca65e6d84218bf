"""Whether a block's programs compute what transformers' own block does."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from bitplan.kernels.decoder.block import Block
from bitplan.one_token.parts import Parts

log = logging.getLogger(__name__)

NEAR = {torch.bfloat16: (0.03, 2**-7), torch.float32: (1e-3, 1e-6)}
"""How far outputs may be apart: of what the block adds, and of the output itself (RMS)."""

PAST = 3
"""Tokens that the cache of the trial holds."""


class Kept:
    """A cache that holds the same few keys and values whatever it is given."""

    def __init__(self, numbers: torch.Generator) -> None:
        self._numbers = numbers
        self._past: list[Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """What it holds, before what it is given."""
        if self._past is None:
            shape = (*keys.shape[:2], PAST, keys.shape[3])
            self._past = [
                torch.randn(shape, generator=self._numbers).to(keys.dtype) for _ in range(2)
            ]
        pairs = zip(self._past, (keys, values), strict=True)
        found = [torch.cat([past.to(new.dtype), new], dim=2) for past, new in pairs]
        return found[0], found[1]


def agree(
    block: nn.Module, parts: Parts, made: Block, like: Tensor, rotated: tuple[Tensor, Tensor]
) -> bool:
    """Try both with random numbers of a shape; say so if they are not near each other.

    Args:
        block: of transformers.
        parts: of the block.
        made: its programs.
        like: what it is given first.
        rotated: cosines and sines that come with that.
    """
    numbers = torch.Generator().manual_seed(0)
    hidden = torch.randn(like.shape, generator=numbers).to(like.dtype)
    angles = torch.rand((1, 1, rotated[0].shape[-1] // 2), generator=numbers) * 6
    both = torch.cat([angles, angles], dim=-1)
    positions = both.cos().to(rotated[0].dtype), both.sin().to(rotated[0].dtype)
    kept = Kept(numbers)
    ours = parts.run(made, hidden, None, kept, positions).float()
    try:
        theirs = type(block).forward(
            block,
            hidden,
            attention_mask=None,
            position_ids=torch.full(like.shape[:2], PAST),
            past_key_values=kept,
            use_cache=True,
            position_embeddings=positions,
        )
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        log.info("Tokens are not taken in two calls: transformers' block failed alone, %s.", error)
        return False
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        log.info("Tokens are not taken in two calls: transformers' block gives something else.")
        return False
    of_added, of_output = NEAR[like.dtype]
    added, output = _size(theirs.float() - hidden.float()), _size(theirs.float())
    if not _size(ours - theirs.float()) <= of_added * added + of_output * output:
        log.warning(
            "Blocks of %s are computed otherwise by this version of transformers: each token is "
            "taken its way, which is slower.",
            type(block).__name__,
        )
        return False
    return True


def _size(numbers: Tensor) -> float:
    return numbers.square().mean().sqrt().item()
