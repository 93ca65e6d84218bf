"""Hidden states of all sequences between two blocks, and what carries them on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.evaluate import batches
from bitplan.models import Inputs, read_outputs, wide_matmuls
from bitplan.models.chain import Call, Chain


@dataclass(kw_only=True)
class Stream:
    """The hidden states of some inputs, at the boundary that they were carried to.

    In memory, all of them: as many numbers as the tokens and the model's width make.
    """

    chain: Chain
    inputs: Inputs
    hidden: Float[Tensor, "sequences *positions width"]

    @classmethod
    @torch.no_grad()
    def begin(cls, chain: Chain, inputs: Inputs) -> "Stream":
        """In front of the first block, from the model as it is now."""
        parts = [_begun(chain, inputs[part])[0] for part in batches(inputs)]
        return cls(chain=chain, inputs=inputs, hidden=torch.cat(parts))

    def calls(self, chosen: slice | Sequence[int]) -> list[Call]:
        """What each block is given beside the hidden states of these sequences."""
        rows = chosen if isinstance(chosen, slice) else list(chosen)
        return _begun(self.chain, self.inputs[rows])[1]

    @torch.no_grad()
    def advance(self, block: int) -> None:
        """Carry all of them through one block, as it is now."""
        with wide_matmuls():
            for part in batches(self.inputs):
                call = self.calls(part)[block]
                self.hidden[part] = self.chain.block(block, self.hidden[part], call)


def _begun(chain: Chain, inputs: Inputs) -> tuple[Tensor, list[Call]]:
    return chain.begin(lambda: read_outputs(chain.model, inputs).values)
