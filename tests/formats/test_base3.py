import itertools

import numpy as np
import pytest
import torch

from bitplan.formats import base3

SHAPES = [(1,), (4,), (5,), (6,), (0, 7), (3, 1), (2, 64), (2, 3, 13)]


def test_every_byte_of_five_codes_comes_back():
    codes = torch.tensor(list(itertools.product(range(3), repeat=5)), dtype=torch.uint8)
    packed = base3.pack(codes)
    assert packed.shape == (243, 1)
    assert len(packed.unique()) == 243
    assert torch.equal(base3.unpack(packed, 5), codes)
    digits = (packed.long() // torch.tensor([1, 3, 9, 27, 81])) % 3
    assert torch.equal(digits, codes.long())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape):
    drawn = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    packed = base3.pack(torch.from_numpy(drawn))
    assert packed.dtype == torch.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] // 5))
    assert torch.equal(base3.unpack(packed, shape[-1]), torch.from_numpy(drawn))
