"""One weight as it is stored, and what it decodes to."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from bitplan.formats import bits, double, masks
from bitplan.formats.codes import pack_codes
from bitplan.formats.composed import compose
from bitplan.formats.decode import decode
from bitplan.formats.scales import CHOICE_BITS, MATRIX_SCALE, SCALE_DTYPE, store_scale
from bitplan.formats.two_planes import SECOND
from bitplan.schema import BASE, COLUMNS, DOWN, KEPT, Scheme, parts

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A weight [out, in] or [experts, out, in] in a scheme.

    `tensors` holds `weight` for a float scheme. For all others it holds `codes` (uint8 [..., out,
    bytes], see `codes`) and `scale` [..., out, groups] (see `scales`), with `offset`
    [..., out, groups] for an integer scheme that is not symmetric, `second` [..., out, groups] for
    two planes, `matrix_scale` [..., 1, 1] for `nvfp4`, and a `_step` [..., out, blocks] of each
    where scales are codes (see `double`), `choice` [..., out, bytes], 2 bits a group, for `bitmod`,
    and `mask` [..., out, bytes] where some weights are zero (see `masks`): `codes` are then of the
    others alone. Weight i of a row, in group j, is

        (code_i - 2^(bits - 1)) * scale_j + offset_j    for an integer scheme,
        first_i * scale_j + second_i * second_j         for two planes, see `two_planes`,
        table[code_i] * scale_j                         for all others, see `codebook`,

    evaluated in float32, or 0 where the mask says so. The last group of a row may be shorter.

    A scheme with salient columns or a low-rank term has the tensors of each of its parts, named
    as `base.codes` (see `bitplan.schema.parts`), and `columns`, int32 [..., k]: which are salient.
    One that leaves columns out has the tensors of the narrower matrix, under such names too, and
    `kept`, uint8 [..., bytes], a bit a column: which are in it.

    `none` has no tensors: all weights are zero.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    tensors: dict[str, Tensor]

    @classmethod
    def encode(
        cls,
        scheme: Scheme,
        codes: UInt8[Tensor, "*out in"],
        scale: Float[Tensor, "*out groups"],
        offset: Float[Tensor, "*out groups"] | None = None,
        matrix_scale: Float[Tensor, "*experts 1 1"] | None = None,
        steps: dict[str, Float[Tensor, "*out blocks"]] | None = None,
        choice: UInt8[Tensor, "*out groups"] | None = None,
        mask: Bool[Tensor, "*out in"] | None = None,
        second: Float[Tensor, "*out groups"] | None = None,
    ) -> "Packed":
        """Pack codes with their scales, and with whatever else the scheme stores of a group.

        `mask` is True where a weight is kept, which the scheme's sparsity says how often.
        """
        if scheme.sparsity is None:
            tensors = {"codes": pack_codes(scheme, codes)}
        else:
            assert mask is not None
            kept = pack_codes(scheme, masks.kept_of(codes, mask))
            tensors = {"codes": kept, "mask": masks.pack_mask(mask, scheme.sparsity)}
        numbers = {"scale": scale}
        if not scheme.symmetric:
            assert offset is not None
            numbers["offset"] = offset
        if scheme.family.planes > 1:
            assert second is not None
            numbers[SECOND] = second
        for name, number in numbers.items():
            if scheme.double:
                assert steps is not None
                stored = double.store(number, steps[name], centre=double.CENTRES[name])
                tensors[name + double.STEP] = steps[name].to(SCALE_DTYPE).contiguous()
            elif scheme.is_integer or name == SECOND:
                stored = number.to(SCALE_DTYPE)
            else:
                stored = store_scale(scheme.family.scale, number, matrix_scale)
            tensors[name] = stored.contiguous()
        if scheme.family.matrix_bytes:
            assert matrix_scale is not None
            tensors[MATRIX_SCALE] = matrix_scale
        if scheme.family.choices > 1:
            assert choice is not None
            tensors["choice"] = bits.pack(choice, CHOICE_BITS)
        return cls(scheme=scheme, shape=tuple(codes.shape), tensors=tensors)

    @classmethod
    def cast(cls, scheme: Scheme, weight: Tensor) -> "Packed":
        """Keep a weight in a float scheme."""
        kept = weight.detach().to(TORCH_DTYPES[scheme.format], copy=True).contiguous()
        return cls(scheme=scheme, shape=tuple(weight.shape), tensors={"weight": kept})

    @classmethod
    def join(
        cls,
        scheme: Scheme,
        shape: tuple[int, ...],
        parts: "dict[str, Packed]",
        columns: Int[Tensor, "*experts k"] | None = None,
        kept: UInt8[Tensor, "*experts bytes"] | None = None,
    ) -> "Packed":
        """A weight of several parts; `columns` are its salient ones, where it has any.

        `kept` says which are not left out, where some are.
        """
        tensors = {
            f"{name}.{key}": tensor
            for name, one in parts.items()
            for key, tensor in one.tensors.items()
        }
        if columns is not None:
            tensors[COLUMNS] = columns.to(torch.int32)
        if kept is not None:
            tensors[KEPT] = kept
        return cls(scheme=scheme, shape=shape, tensors=tensors)

    @classmethod
    def stacked(cls, matrices: "Iterable[Packed]", count: int) -> "Packed":
        """So many matrices [out, in] of one scheme and shape as one weight; each is copied once."""
        rest = iter(matrices)
        first = next(rest)
        tensors = {key: one.new_empty(count, *one.shape) for key, one in first.tensors.items()}
        for place, one in enumerate(chain([first], rest)):
            for key, tensor in one.tensors.items():
                tensors[key][place] = tensor
        return cls(scheme=first.scheme, shape=(count, *first.shape), tensors=tensors)

    def split(self) -> "dict[str, Packed]":
        """The parts of a composed weight, by their names; nothing is copied."""
        found = {}
        for name, (scheme, shape) in parts(self.scheme, self.shape).items():
            start = f"{name}."
            own = (key for key in self.tensors if key.startswith(start))
            tensors = {key.removeprefix(start): self.tensors[key] for key in own}
            found[name] = Packed(scheme=scheme, shape=shape, tensors=tensors)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def rows(self, rows: slice) -> "Packed":
        """Some rows of the weight, of every expert where there are experts; nothing is copied."""
        if self.scheme.is_composed:
            # V of a low-rank term has rows of its own: each is for all rows of the weight.
            some = {
                name: part if name == DOWN else part.rows(rows)
                for name, part in self.split().items()
            }
            shape = (*some[BASE].shape[:-1], self.shape[-1])
            which = (self.tensors.get(name) for name in (COLUMNS, KEPT))
            return Packed.join(self.scheme, shape, some, *which)
        tensors = {
            name: tensor if name == MATRIX_SCALE else tensor[..., rows, :]
            for name, tensor in self.tensors.items()
        }
        count = tensors["weight" if self.scheme.is_float else "codes"].shape[-2]
        shape = (*self.shape[:-2], count, self.shape[-1])
        return Packed(scheme=self.scheme, shape=shape, tensors=tensors)

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense weight, as stored."""
        if self.scheme.is_composed:
            dense = {name: part.decode() for name, part in self.split().items()}
            columns, kept = (self.tensors.get(name) for name in (COLUMNS, KEPT))
            return compose(dense, columns, kept, self.shape[-1]).to(dtype)
        if self.scheme.is_none:
            return torch.zeros(self.shape, dtype=dtype)
        if self.scheme.is_float:
            return self.tensors["weight"].to(dtype)
        return decode(self.scheme, self.shape[-1], self.tensors, dtype)
