import pytest
import torch
from torch import Tensor

from bitplan.formats import encode_rows
from bitplan.kernels import cached
from bitplan.schema import Scheme

SCHEMES = [f"int{bits}{rest}" for bits in range(2, 9) for rest in ("g32", "g16s", "", "s")]
DTYPES = [torch.float32, torch.bfloat16]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [16, 72, 96])
@pytest.mark.parametrize("name", SCHEMES)
def test_rows_are_those_of_torch_to_the_bit(name, width, dtype):
    scheme = Scheme.parse(name)
    rows = (random(6, width) * torch.logspace(-3, 3, 6)[:, None]).to(dtype)
    rows[1] = 0
    rows[2, :16] = 7.03  # no range
    rows[3] += 300  # far from zero
    expected = encode_rows(rows, scheme)
    whole = {
        name: torch.full((2, 9, *t.shape[1:]), 77, dtype=t.dtype)
        for name, t in expected.tensors.items()
    }
    both = torch.stack([rows, rows.flip(0)])
    cached.append(whole, 2, both[:, :4], scheme)
    cached.append(whole, 6, both[:, 4:], scheme)
    for key, tensor in expected.tensors.items():
        assert whole[key][0, 2:8].equal(tensor), key
        assert whole[key][1, 2:8].equal(tensor.flip(0)), key
        assert (whole[key][:, :2] == 77).all()
        assert (whole[key][:, 8:] == 77).all()
    for out in DTYPES:
        found = cached.read(expected.tensors, 5, width, scheme, out)
        assert found.equal(expected.decode(out)[:5])


def test_what_has_no_loops():
    rows = random(2, 16)
    assert cached.unfit(Scheme.parse("bf16"), rows) == "They are no integers"
    assert cached.unfit(Scheme(format="int", bits=4, group_size=24, symmetric=False), rows)
    assert cached.unfit(Scheme.parse("int4"), rows.half())
    assert cached.unfit(Scheme.parse("int4"), rows) is None
