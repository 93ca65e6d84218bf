"""Keys and values as a cache stores them: a row a token, of all heads side by side.

The grid of a group reaches from its minimum to its maximum, as that of `rtn`: a token is rounded
on its own when it comes, so that a cache grows by appending.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import SchemeError
from bitplan.formats.packed import TORCH_DTYPES, Packed
from bitplan.formats.scales import SCALE_DTYPE
from bitplan.schema import Scheme


def rows_of(states: Float[Tensor, "batch heads tokens dim"]) -> Float[Tensor, "batch tokens width"]:
    """One row a token."""
    return states.transpose(1, 2).flatten(2)


def states_of(
    rows: Float[Tensor, "batch tokens width"], heads: int
) -> Float[Tensor, "batch heads tokens dim"]:
    """The way back from `rows_of`."""
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)


def check_cached(scheme: Scheme) -> None:
    """Raise `SchemeError` for a scheme that no cache can store its rows in."""
    changed = scheme.double or scheme.sparsity or scheme.is_composed
    if changed or not (scheme.is_float or scheme.is_integer):
        raise SchemeError(
            f"{scheme} is for weights: keys and values are cached as integers (int2 to int8, as in "
            "int4g64) or as they are (bf16, fp16, fp32). Choose among those."
        )


def encode_rows(rows: Float[Tensor, "*batch tokens width"], scheme: Scheme) -> Packed:
    """Round rows to the nearest codes, and pack them; shape [*batch, tokens, width]."""
    check_cached(scheme)
    if scheme.is_float:
        return Packed.cast(scheme, rows)
    codes, scale, offset = _quantize(rows, scheme)
    codes = codes.add_(2 ** (scheme.bits - 1)).to(torch.uint8).flatten(-2)[..., : rows.shape[-1]]
    return Packed.encode(scheme, codes, scale.squeeze(-1), offset.squeeze(-1))


def round_rows(
    rows: Float[Tensor, "*batch tokens width"], scheme: Scheme
) -> Float[Tensor, "*batch tokens width"]:
    """What `encode_rows` decodes to, in the rows' dtype: the same bits, without packing."""
    check_cached(scheme)
    if scheme.is_float:
        return rows.to(TORCH_DTYPES[scheme.format]).to(rows.dtype)
    codes, scale, offset = _quantize(rows, scheme)
    values = codes.mul_(scale)
    if not scheme.symmetric:
        values = values.add_(offset)
    return values.flatten(-2)[..., : rows.shape[-1]].to(rows.dtype)


def _quantize(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """Centred codes [..., groups, group], float32, with scale and offset [..., groups, 1]."""
    width = rows.shape[-1]
    group = scheme.group_size or width
    values = rows.detach().float()
    if width % group:
        # The last value of a short group, repeated, leaves its range as it is.
        filler = values[..., -1:].expand(*values.shape[:-1], -width % group)
        values = torch.cat([values, filler], dim=-1)
    values = values.unflatten(-1, (-1, group))
    half = 2.0 ** (scheme.bits - 1)
    scale, offset = _grid(values.amin(-1, keepdim=True), values.amax(-1, keepdim=True), scheme)
    codes = (values - offset).div_(scale).round_().clamp_(-half, half - 1)
    return codes, scale, offset


def _grid(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and offset as they are stored, in float32."""
    half = 2.0 ** (scheme.bits - 1)
    if scheme.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) * (1.0 / (2 * half - 1))
    offset = (high + low) / 2 + scale / 2
    if scheme.symmetric:
        offset = torch.zeros_like(offset)
    stored = offset.to(SCALE_DTYPE).float()
    # Far from zero an offset is stored more coarsely than a narrow group needs: what its rounding
    # moves the grid by, beyond half a step, the grid is widened by.
    moved = (stored - offset).abs()
    scale = scale + (moved - scale / 2).clamp_min(0) / (half - 0.5)
    scale = scale.to(SCALE_DTYPE).float()
    # A group of equal values has no range: any positive scale gives the exact offset.
    return torch.where(scale > 0, scale, 1.0), stored
