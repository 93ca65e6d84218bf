"""Types that gguf has too, decoded by its own reference."""

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from bitplan.formats import Packed
from bitplan.formats.codebook import codebook_of
from bitplan.schema import Scheme

ROWS = 6


def codes_for(scheme: Scheme, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if scheme.is_integer:
        shape, most = (ROWS, columns), 2 ** int(scheme.bits)
        return torch.randint(0, most, shape, generator=generator, dtype=torch.uint8)
    known = codebook_of(scheme).table.isfinite().nonzero().flatten()
    drawn = torch.randint(0, len(known), (ROWS, columns), generator=generator)
    return known[drawn].to(torch.uint8)


def halves(codes: Tensor, block: int) -> np.ndarray:
    """Two codes a byte, the first half of a block in the low halves."""
    low, high = codes.unflatten(1, (-1, 2, block // 2)).unbind(2)
    return (low | high << 4).numpy()


def read(blocks: np.ndarray, kind: GGMLQuantizationType) -> Tensor:
    flat = blocks.reshape(ROWS, -1)
    return torch.from_numpy(gguf.quants.dequantize(flat, kind))


def same(packed: Packed, theirs: Tensor) -> bool:
    ours = packed.decode()
    # Where a code is a negative zero, gguf has a zero.
    return torch.equal(
        torch.where(ours == 0, 0.0, ours).view(torch.int32), theirs.view(torch.int32)
    )


def test_mxfp4():
    scheme = Scheme.parse("mxfp4")
    codes = codes_for(scheme, 96)
    scale = torch.arange(ROWS * 3, dtype=torch.int32).mul_(14).view(ROWS, 3).to(torch.uint8)
    packed = Packed.encode(scheme, codes, torch.ones(ROWS, 3))
    packed.tensors["scale"].copy_(scale)
    blocks = np.concatenate([scale.numpy()[..., None], halves(codes, 32)], axis=-1)
    assert same(packed, read(blocks, GGMLQuantizationType.MXFP4))


def test_nvfp4():
    scheme = Scheme.parse("nvfp4")
    codes = codes_for(scheme, 128)
    scale = torch.arange(ROWS * 8, dtype=torch.uint8).mul_(2).add_(1).view(ROWS, 8)
    packed = Packed.encode(scheme, codes, torch.ones(ROWS, 8), matrix_scale=torch.ones(1, 1))
    packed.tensors["scale"].copy_(scale)
    nibbles = halves(codes, 16).reshape(ROWS, 2, 32)
    blocks = np.concatenate([scale.numpy().reshape(ROWS, 2, 4), nibbles], axis=-1)
    assert same(packed, read(blocks, GGMLQuantizationType.NVFP4))


@pytest.mark.parametrize("kind", [GGMLQuantizationType.TQ1_0, GGMLQuantizationType.TQ2_0])
def test_ternary(kind):
    scheme = Scheme.parse("ternary")
    scale = torch.linspace(0.01, 3, ROWS).bfloat16().float()  # what float16 holds as well
    packed = Packed.encode(scheme, codes_for(scheme, 256), scale[:, None])
    theirs = gguf.quants.quantize(packed.decode().numpy(), kind)
    assert same(packed, read(theirs, kind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("int4g32s", GGMLQuantizationType.Q4_0), ("int8g32s", GGMLQuantizationType.Q8_0)],
)
def test_symmetric_integers(name, kind):
    scheme = Scheme.parse(name)
    codes = codes_for(scheme, 96)
    scale = torch.linspace(0.01, 3, ROWS * 3).view(ROWS, 3).bfloat16().float()
    packed = Packed.encode(scheme, codes, scale)
    half = scale.half().numpy().view(np.uint8).reshape(ROWS, 3, 2)
    stored = halves(codes, 32)
    if kind is GGMLQuantizationType.Q8_0:
        stored = (codes ^ 0x80).numpy().reshape(ROWS, 3, 32)
    blocks = np.concatenate([half, stored], axis=-1)
    assert same(packed, read(blocks, kind))
