"""Dense weights of packed codes."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from bitplan.formats import bits, double, masks
from bitplan.formats.codebook import codebook_of, look_up
from bitplan.formats.codes import unpack_codes
from bitplan.formats.scales import CHOICE_BITS, MATRIX_SCALE, read_scale
from bitplan.formats.two_planes import SECOND, units
from bitplan.schema import Scheme


def decode(scheme: Scheme, columns: int, tensors: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Dense weight of packed codes, of whatever format that is one part."""
    if scheme.is_integer:
        return _decode_integer(scheme, columns, tensors, dtype)
    by = _decode_planes if scheme.family.planes > 1 else _decode_codebook
    return by(scheme, columns, tensors, dtype)


def _decode_integer(
    scheme: Scheme, columns: int, tensors: dict[str, Tensor], dtype: torch.dtype
) -> Tensor:
    """Dense weight of packed integer codes. Differentiable in scale and offset."""
    codes, mask = _read_codes(scheme, tensors, columns)
    scale, offset = read_number(scheme, tensors, "scale"), None
    if not scheme.symmetric:
        offset = read_number(scheme, tensors, "offset")
    # One pass: q * scale + (offset - half * scale) differs from the definition in rounding only,
    # so the definition's order is kept: the centred code is exact in float32.
    values = _in_groups(codes, scale.shape[-1], scheme).float().sub_(2 ** (scheme.bits - 1))
    values = (
        values * scale.unsqueeze(-1) if scale.requires_grad else values.mul_(scale.unsqueeze(-1))
    )
    if offset is not None:
        moved = offset.unsqueeze(-1)
        needs_graph = values.requires_grad or moved.requires_grad
        values = values + moved if needs_graph else values.add_(moved)
    return _in_rows(values, columns, mask).to(dtype)


def _decode_codebook(
    scheme: Scheme, columns: int, tensors: dict[str, Tensor], dtype: torch.dtype
) -> Tensor:
    """Dense weight of packed codes of a codebook. Differentiable in bfloat16 and float32 scales."""
    codes, mask = _read_codes(scheme, tensors, columns)
    scale = read_number(scheme, tensors, "scale")
    groups = scale.shape[-1]
    if scheme.family.choices > 1:
        chosen = bits.unpack(tensors["choice"], CHOICE_BITS, groups).int().unsqueeze(-1)
        tables = torch.cat([codebook_of(scheme, n).table for n in range(scheme.family.choices)])
        index = _in_groups(codes, groups, scheme).int() + (chosen << int(scheme.bits))
        values = look_up(tables, index)
    else:
        values = _in_groups(codebook_of(scheme).values_of(codes), groups, scheme)
    values = (
        values * scale.unsqueeze(-1) if scale.requires_grad else values.mul_(scale.unsqueeze(-1))
    )
    return _in_rows(values, columns, mask).to(dtype)


def _decode_planes(
    scheme: Scheme, columns: int, tensors: dict[str, Tensor], dtype: torch.dtype
) -> Tensor:
    """Dense weight of packed codes of two planes. Differentiable in bfloat16 scales."""
    codes, mask = _read_codes(scheme, tensors, columns)
    scales = [read_number(scheme, tensors, name) for name in ("scale", SECOND)]
    groups, index = scales[0].shape[-1], codes.int()
    first, second = (
        _in_groups(look_up(of_codes, index), groups, scheme) * scale.unsqueeze(-1)
        for of_codes, scale in zip(units(scheme.format), scales, strict=True)
    )
    return _in_rows(first + second, columns, mask).to(dtype)


def read_number(
    scheme: Scheme, tensors: dict[str, Tensor], name: str
) -> Float[Tensor, "*out groups"]:
    """The `scale`, the `second` plane's or the `offset` of each group, in float32."""
    if scheme.double:
        steps = tensors[name + double.STEP]
        return double.read(tensors[name], steps, centre=double.CENTRES[name])
    if name in ("offset", SECOND):
        return tensors[name].float()
    return read_scale(scheme.family.scale, tensors[name], tensors.get(MATRIX_SCALE))


def _read_codes(
    scheme: Scheme, tensors: dict[str, Tensor], columns: int
) -> tuple[UInt8[Tensor, "*out in"], Bool[Tensor, "*out in"] | None]:
    """The code of every weight, 0 where it has none, and which of them have one; None: all."""
    if scheme.sparsity is None:
        return unpack_codes(scheme, tensors["codes"], columns), None
    mask = masks.unpack_mask(tensors["mask"], scheme.sparsity, columns)
    kept = unpack_codes(scheme, tensors["codes"], scheme.sparsity.columns(columns))
    return masks.spread(kept, mask), mask


def _in_rows(
    values: Float[Tensor, "*out groups group"], columns: int, mask: Tensor | None
) -> Float[Tensor, "*out in"]:
    row = values.flatten(-2)[..., :columns]
    return row if mask is None else masks.only_kept(row, mask)


def _in_groups(row: Tensor, groups: int, scheme: Scheme) -> Tensor:
    """[..., groups, group], the last one filled up with zeros."""
    group = scheme.group_size or row.shape[-1]
    if lacking := groups * group - row.shape[-1]:
        row = torch.nn.functional.pad(row, (0, lacking))
    return row.unflatten(-1, (groups, group))
