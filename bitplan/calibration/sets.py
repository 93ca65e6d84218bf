"""Three sets of tokens, and the digest that tells tokens apart."""

from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor, nn

from bitplan.calibration.limits import check_inputs
from bitplan.models import Inputs
from bitplan.schema import Domain


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Token ids, int64 [sequences, length], or other inputs, and where they came from.

    `source` says so for people; `domains` say what each of several sources gave to `calibration`.
    """

    calibration: Int[Tensor, "calibration length"] | Inputs
    search: Int[Tensor, "search length"] | Inputs
    held_out: Int[Tensor, "held_out length"] | Inputs
    source: str
    domains: tuple[Domain, ...] = ()

    def checked(self, model: nn.Module) -> "TokenSets":
        """The same sets as int64. Raises `CalibrationError` where a model cannot read them."""
        return replace(
            self,
            calibration=check_inputs(self.calibration, model),
            search=check_inputs(self.search, model),
            held_out=check_inputs(self.held_out, model),
        )


def tokens_digest(tokens: Tensor | Inputs) -> str:
    """sha256 over shape and values, and of other inputs than tokens their names."""
    return Inputs.of(tokens).digest
