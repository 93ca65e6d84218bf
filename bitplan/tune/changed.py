"""One block with its channels changed between neighbours and its weights rounded.

OmniQuant (Shao et al., 2024): a scale for each channel that linears read and, where biases can take
it, a shift (its learnable equivalent transformation); and two clipping strengths for each group of
weights, factors of its minimum and its maximum (its learnable weight clipping). They are learned
together. Rounding has the gradient of what is not rounded.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from bitplan.models import Change, Group, bias_of, rows_of, takes_shift
from bitplan.models.chain import Chain
from bitplan.schema import Scheme
from bitplan.tune.latent import Rounded
from bitplan.tune.numbers import Number
from bitplan.tune.reads import Reads
from bitplan.tune.streams import Stream

LEAST = 1e-12
"""Of the step of a grid: a group may be of one value."""


class ChangedBlock:
    """A block of a chain, and the numbers that change it; the model stays as it is.

    Args:
        chain: of a dense model.
        index: of the block.
        groups: those within it.
        linears: paths of all that is rounded.
        reads: what the readers of each group read, by its maker.
        scheme: integers that are rounded to.
    """

    def __init__(
        self,
        chain: Chain,
        index: int,
        *,
        groups: Sequence[Group],
        linears: Sequence[str],
        reads: Mapping[str, Reads],
        scheme: Scheme,
    ) -> None:
        self.chain, self.index, self.groups, self.scheme = chain, index, groups, scheme
        self.modules: nn.Module = chain.blocks[index]
        self.linears, self.reads = linears, reads
        model = chain.model
        paths = {path for group in groups for path in (group.maker, *group.readers)}
        self.weights = {path: rows_of(model, path) for path in sorted(paths.union(linears))}
        self.biases = {path: bias_of(model, path) for path in self.weights}
        # Logarithms of them.
        self.scales = {one.maker: _parameter(reads[one.maker].mean) for one in groups}
        shifted = [one.maker for one in groups if takes_shift(model, one)]
        self.shifts = {maker: _parameter(reads[maker].mean) for maker in shifted}
        self.clips = {path: _parameter(self._unclipped(path)) for path in linears}
        self.numbers: list[Number] = []
        self.begin(0.0, False)

    @property
    def name(self) -> str:
        """For people."""
        return f"block {self.index}"

    def learning(self) -> AbstractContextManager[None]:
        """`run` goes by the numbers in any case."""
        return nullcontext()

    @torch.no_grad()
    def begin(self, exponent: float, shifts: bool) -> None:
        """Put the numbers where learning begins.

        Scales are the size of what is read to this power, of geometric mean 1, and shifts its mean
        or nothing. Nothing is clipped.
        """
        for maker, parameter in self.scales.items():
            size = self.reads[maker].square.clamp_min(1e-30).log() / 2
            parameter.copy_(exponent * (size - size.mean()))
        for maker, parameter in self.shifts.items():
            parameter.copy_(self.reads[maker].mean * shifts)
        for parameter in self.clips.values():
            parameter.fill_(1.0)
        self.numbers = [
            *(_number(f"scale of {path}", of) for path, of in self.scales.items()),
            *(
                _number(f"shift of {path}", of, self.reads[path].deviation)
                for path, of in self.shifts.items()
            ),
            *(_number(f"clip of {path}", of) for path, of in self.clips.items()),
        ]

    def run(
        self, stream: Stream, chosen: slice | Sequence[int]
    ) -> Float[Tensor, "sequences *positions width"]:
        """The output for some sequences."""
        hidden, call = stream.hidden[chosen], stream.calls(chosen)[self.index]
        arguments = (hidden, *call.args)
        output = functional_call(self.modules, self.parameters(), arguments, call.kwargs)
        return output[0] if self.chain.in_tuples[self.index] else output

    def parameters(self) -> dict[str, Tensor]:
        """Of the block's own, by their names in it, those that are changed or rounded."""
        weights = {path: weight.float() for path, weight in self.weights.items()}
        biases = {path: bias.float() for path, bias in self.biases.items() if bias is not None}
        for group in self.groups:
            shift = self.shifts.get(group.maker)
            change = Change(scale=self.scales[group.maker].exp(), shift=shift)
            _change(weights, biases, group, change)
        for path in self.linears:
            weights[path] = clipped(weights[path], self.clips[path], self.scheme)
        found = {}
        for path, weight in weights.items():
            inside, dtype = self._inside(path), self.weights[path].dtype
            is_turned = isinstance(self.chain.model.get_submodule(path), Conv1D)
            found[f"{inside}.weight"] = (weight.T if is_turned else weight).to(dtype)
            if path in biases:
                found[f"{inside}.bias"] = biases[path].to(dtype)
        return found

    def _inside(self, path: str) -> str:
        return path.removeprefix(f"{self.chain.path}.{self.index}.")

    def _unclipped(self, path: str) -> Float[Tensor, "2 out groups"]:
        weight = self.weights[path]
        columns = weight.shape[1]
        groups = -(-columns // (self.scheme.group_size or columns))
        return torch.ones(2, len(weight), groups, device=weight.device)


def clipped(
    weight: Float[Tensor, "out in"], clip: Float[Tensor, "2 out groups"], scheme: Scheme
) -> Float[Tensor, "out in"]:
    """Rounded on the grid of each group from `clip[0]` of its minimum to `clip[1]` of its maximum.

    Differentiable in both, as if nothing were rounded but what lies beyond the grid.
    """
    columns = weight.shape[1]
    padding = -columns % (scheme.group_size or columns)
    padded = torch.cat([weight, weight[:, -1:].expand(-1, padding)], dim=1) if padding else weight
    grouped = padded.unflatten(1, (clip.shape[-1], -1))
    half = 2.0 ** (scheme.bits - 1)
    low, high = grouped.amin(-1) * clip[0], grouped.amax(-1) * clip[1]
    scale = ((high - low) / (2 * half - 1)).clamp_min(LEAST)
    offset = low + half * scale
    steps = (grouped - offset.unsqueeze(-1)) / scale.unsqueeze(-1)
    return Rounded.apply(steps, scale, offset, half).flatten(1)[:, :columns]


def _change(
    weights: dict[str, Tensor], biases: dict[str, Tensor], group: Group, change: Change
) -> None:
    """As `bitplan.models.change_group`, of tensors that take gradients."""
    made, rows = weights[group.maker], group.rows
    part = made if rows is None else made[rows]
    changed = change.maker(part) if part.dim() == 1 else change.maker(part.T).T
    weights[group.maker] = _within(made, rows, changed)
    if (bias := biases.get(group.maker)) is not None:
        part = bias if rows is None else bias[rows]
        biases[group.maker] = _within(bias, rows, change.maker_bias(part))
    read = change.spread(group.copies, group.head)
    for path in group.readers:
        if path in biases:
            biases[path] = read.reader_bias(biases[path], weights[path])
        weights[path] = read.reader(weights[path])


def _within(whole: Tensor, rows: slice | None, part: Tensor) -> Tensor:
    """`whole`, with other rows in place of some."""
    return part if rows is None else torch.cat([whole[: rows.start], part, whole[rows.stop :]])


def _parameter(like: Tensor) -> nn.Parameter:
    return nn.Parameter(like.detach().clone(), requires_grad=False)


def _number(name: str, parameter: nn.Parameter, unit: Tensor | None = None) -> Number:
    start = parameter.detach().clone()
    unit = torch.ones_like(start) if unit is None else unit
    return Number(name=name, parameter=parameter, start=start, unit=unit)
