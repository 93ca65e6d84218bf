"""Some neighbouring packed blocks, and what of them is learned."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn

from bitplan.models.chain import Chain
from bitplan.packed_weight import PackedWeight
from bitplan.tune.latent import Latent, learnable
from bitplan.tune.numbers import numbers_of, packed_weights
from bitplan.tune.streams import Stream


class Window:
    """Neighbouring blocks of a chain, packed and laid out as they are stored.

    `originals` are the weights that were packed, as far as their codes can be learned.
    """

    def __init__(
        self, chain: Chain, indices: range, originals: Mapping[PackedWeight, Tensor]
    ) -> None:
        self.chain, self.indices = chain, indices
        parts = {str(index): chain.blocks[index] for index in indices}
        self.modules: nn.Module = nn.ModuleDict(parts)
        self.numbers = list(numbers_of(self.modules))
        self.latents = {}
        for name, weight in packed_weights(self.modules).items():
            if weight in originals and Latent.fits(weight):
                self.latents[name] = Latent(weight, originals[weight])
        self.numbers += [one.number(f"{name}.codes") for name, one in self.latents.items()]

    @property
    def name(self) -> str:
        """Of what is given back: the last block."""
        return f"block {self.indices[-1]}"

    def learning(self) -> AbstractContextManager[None]:
        """Within the block codes are rounded from what is learned."""
        return learnable(list(self.latents.values()))

    def run(self, stream: Stream, chosen: slice | Sequence[int]) -> Tensor:
        """The output for some sequences."""
        calls, hidden = stream.calls(chosen), stream.hidden[chosen]
        for index in self.indices:
            hidden = self.chain.block(index, hidden, calls[index])
        return hidden

    def write_codes(self) -> None:
        """Give the weights the codes that were learned."""
        for latent in self.latents.values():
            latent.write()

    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by its name in the model."""
        kept, stored = {number.name for number in self.numbers}, self.modules.state_dict()
        return {f"{self.chain.path}.{name}": stored[name] for name in stored if name in kept}
