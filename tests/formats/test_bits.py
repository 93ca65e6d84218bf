import numpy as np
import pytest
import torch

from bitplan.formats import pack, unpack
from bitplan.formats.bits import row_bytes

WIDTHS = range(1, 9)
SHAPES = [
    (1,),
    (9,),
    (0, 9),
    (1, 1),
    (1, 7),
    (3, 8),
    (5, 31),
    (2, 64),
    (3, 65),
    (0, 4, 9),
    (2, 3, 13),
    (2, 1, 3, 17),
]


def codes(shape: tuple[int, ...], bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bits)
    drawn = torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.uint8)
    if drawn.numel() > 1:
        drawn.view(-1)[0], drawn.view(-1)[-1] = 2**bits - 1, 2**bits - 1
    return drawn


def packed_by_numpy(values: np.ndarray, bits: int) -> np.ndarray:
    """One bit after another, lowest first, rows filled up to whole cells of 8 codes."""
    *rows, columns = values.shape
    full = -(-columns // 8) * 8
    filled = np.zeros((*rows, full), dtype=np.uint8)
    filled[..., :columns] = values
    lanes = (filled[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(lanes.reshape(*rows, full * bits), axis=-1, bitorder="little")


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packs_as_numpy_does_and_unpacks_exactly(shape, bits):
    values = codes(shape, bits)
    before = values.clone()
    packed = pack(values, bits)
    assert torch.equal(values, before)
    assert packed.shape == (*shape[:-1], row_bytes(shape[-1], bits))
    assert np.array_equal(packed.numpy(), packed_by_numpy(values.numpy(), bits))
    assert torch.equal(unpack(packed, bits, shape[-1]), values)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_in_every_lane(bits):
    every = torch.arange(2**bits, dtype=torch.uint8)
    values = torch.stack([every.roll(lane) for lane in range(8)], dim=1)
    assert torch.equal(unpack(pack(values, bits), bits, 8), values)


@pytest.mark.parametrize("bits", WIDTHS)
def test_layout_in_memory_does_not_matter(bits):
    values = codes((16, 24), bits)
    turned = values.t().contiguous().t()
    packed = pack(turned, bits)
    assert packed.is_contiguous()
    assert torch.equal(packed, pack(values, bits))
    strided = packed.t().contiguous().t()
    assert torch.equal(unpack(strided, bits, 24), values)
    assert torch.equal(unpack(packed[3:7], bits, 24), values[3:7])


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("start", [1, 3, 8])
def test_codes_may_begin_anywhere_in_memory(start, bits):
    values = codes((64,), bits)[start : start + 24]
    assert torch.equal(pack(values, bits), pack(values.clone(), bits))
    rows = codes((3, 40), bits)[:, start : start + 24]
    assert torch.equal(unpack(pack(rows, bits), bits, 24), rows)


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_copies(bits):
    values = codes((2, 8), bits)
    packed = pack(values, bits)
    expected = packed.clone()
    values.zero_()
    assert torch.equal(packed, expected)
