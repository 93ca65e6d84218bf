from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitplan.kernels.gpu.layout import PANEL, sections
from bitplan.kernels.gpu.shapes import (
    MANTISSA,
    Device,
    decode_blocks,
    numbers_of,
    prefill_blocks,
)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = [Device(multiprocessors=132), Device(multiprocessors=304, warp=64, cuda=False)]


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("dtype", MANTISSA)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_becomes_its_number_exactly(bits, dtype, precise):
    numbers = numbers_of(bits, dtype, precise=precise)
    half = 2 ** (bits - 1)
    for code in range(2**bits):
        if numbers.centred:
            number = float(torch.tensor(code - half).to(DTYPES[dtype]))
        else:
            one = int(torch.ones(1, dtype=DTYPES[dtype]).view(torch.int16))
            word = torch.tensor(one | code << numbers.target, dtype=torch.int16)
            number = float(word.view(DTYPES[dtype]))
        exact = (Fraction(number) - Fraction(numbers.zero)) * Fraction(numbers.unit)
        assert exact == code - half
    for constant in (-numbers.zero, 1 / numbers.unit):
        assert float(torch.tensor(constant, dtype=DTYPES[dtype])) == constant


@given(
    rows=st.integers(1, 40000),
    columns=st.integers(1, 1000).map(lambda cells: 32 * cells),
    tokens=st.integers(1, 4096),
    device=st.sampled_from(DEVICES),
)
def test_splits_have_every_panel_once(rows, columns, tokens, device):
    panels = columns // PANEL
    for blocks in (
        decode_blocks(rows, columns, tokens, device),
        prefill_blocks(rows, columns, tokens, device),
    ):
        shares = [
            min(panels, (split + 1) * blocks.panels) - min(panels, split * blocks.panels)
            for split in range(blocks.splits)
        ]
        assert sum(shares) == panels
        assert all(shares) or panels == 0
    assert prefill_blocks(rows, columns, tokens, device).splits == 1


@given(cells=st.integers(1, 1000))
def test_sections_have_every_column_once(cells):
    end = 0
    for start, cells_of, panels in sections(32 * cells):
        assert start == end
        assert panels == 1 or cells_of == 8
        end += panels * cells_of * 32
    assert end == 32 * cells
