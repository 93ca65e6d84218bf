"""One weight as it is stored, and what it decodes to."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.formats.bits import pack, unpack
from bitplan.schema import Scheme

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

SCALE_DTYPE = torch.bfloat16
"""Of scales and offsets: the range of float32, and what torch's packed matmuls read."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A weight [out, in] or [experts, out, in] in a scheme.

    `tensors` holds `weight` for a float scheme. For an integer scheme it holds `codes`
    (uint8 [..., out, bytes], see `bits`), `scale` [..., out, groups] and, unless symmetric,
    `offset` [..., out, groups]. Weight i of a row, in group j, is

        (code_i - 2^(bits - 1)) * scale_j + offset_j

    evaluated in float32. The last group of a row may be shorter.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    tensors: dict[str, Tensor]

    @classmethod
    def encode(
        cls,
        scheme: Scheme,
        codes: Tensor,
        scale: Float[Tensor, "*out groups"],
        offset: Float[Tensor, "*out groups"] | None,
    ) -> "Packed":
        """Pack codes (uint8 [..., out, in]) with their scales and offsets."""
        tensors = {"codes": pack(codes, scheme.bits), "scale": scale.to(SCALE_DTYPE).contiguous()}
        if not scheme.symmetric:
            assert offset is not None
            tensors["offset"] = offset.to(SCALE_DTYPE).contiguous()
        return cls(scheme=scheme, shape=tuple(codes.shape), tensors=tensors)

    @classmethod
    def cast(cls, scheme: Scheme, weight: Tensor) -> "Packed":
        """Keep a weight in a float scheme."""
        kept = weight.detach().to(TORCH_DTYPES[scheme.format], copy=True).contiguous()
        return cls(scheme=scheme, shape=tuple(weight.shape), tensors={"weight": kept})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def rows(self, rows: slice) -> "Packed":
        """Some rows of the weight, of every expert where there are experts; nothing is copied."""
        tensors = {name: tensor[..., rows, :] for name, tensor in self.tensors.items()}
        count = next(iter(tensors.values())).shape[-2]
        shape = (*self.shape[:-2], count, self.shape[-1])
        return Packed(scheme=self.scheme, shape=shape, tensors=tensors)

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense weight, as stored."""
        if self.scheme.is_float:
            return self.tensors["weight"].to(dtype)
        return decode_integer(self.scheme, self.shape[-1], self.tensors, dtype)


def decode_integer(
    scheme: Scheme, columns: int, tensors: dict[str, Tensor], dtype: torch.dtype
) -> Tensor:
    """Dense weight of packed integer codes. Differentiable in scale and offset."""
    codes = unpack(tensors["codes"], scheme.bits, columns)
    scale, offset = tensors["scale"].float(), tensors.get("offset")
    *rows, groups = scale.shape
    group = scheme.group_size or columns
    padded = groups * group
    if padded > columns:
        codes = torch.nn.functional.pad(codes, (0, padded - columns))
    # One pass: q * scale + (offset - half * scale) differs from the definition in rounding only,
    # so the definition's order is kept: the centred code is exact in float32.
    values = codes.reshape(*rows, groups, group).float().sub_(2 ** (scheme.bits - 1))
    values = (
        values * scale.unsqueeze(-1) if scale.requires_grad else values.mul_(scale.unsqueeze(-1))
    )
    if offset is not None:
        moved = offset.float().unsqueeze(-1)
        needs_graph = values.requires_grad or moved.requires_grad
        values = values + moved if needs_graph else values.add_(moved)
    return values.reshape(*rows, padded)[..., :columns].to(dtype)
