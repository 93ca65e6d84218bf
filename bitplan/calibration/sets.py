"""Three sets of tokens, and the digest that tells tokens apart."""

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bitplan.calibration.limits import check_tokens
from bitplan.schema import Domain


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Token ids, int64 [sequences, length], and where they came from.

    `source` says so for people; `domains` say what each of several sources gave to `calibration`.
    """

    calibration: Int[Tensor, "calibration length"]
    search: Int[Tensor, "search length"]
    held_out: Int[Tensor, "held_out length"]
    source: str
    domains: tuple[Domain, ...] = ()

    def checked(self, model: nn.Module) -> "TokenSets":
        """The same sets as int64. Raises `CalibrationError` where a model cannot read them."""
        return replace(
            self,
            calibration=check_tokens(self.calibration, model),
            search=check_tokens(self.search, model),
            held_out=check_tokens(self.held_out, model),
        )


def tokens_digest(tokens: Tensor) -> str:
    """sha256 over shape and values."""
    tokens = tokens.to(torch.int64).contiguous()
    return hashlib.sha256(repr(list(tokens.shape)).encode() + tokens.numpy().tobytes()).hexdigest()
