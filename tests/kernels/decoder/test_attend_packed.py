import pytest
import torch
from torch import Tensor, nn

from bitplan.cache.rows import PackedRows
from bitplan.formats import rows_of, states_of
from bitplan.kernels.cached import tell
from bitplan.kernels.decoder import attend, attend_packed
from bitplan.kernels.native import expand, job
from bitplan.kernels.native.floats import bits_of, fields_of
from bitplan.schema import Scheme


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored(name: str, states: Tensor) -> PackedRows:
    """Rows of which the last came after the others, in tensors that have no room for more."""
    rows = PackedRows(Scheme.parse(name), context=states.shape[2])
    for some in (states[:, :, :-1], states[:, :, -1:]):
        if some.shape[2]:
            rows.append(rows_of(some))
    return rows


def attended(query: Tensor, keys: PackedRows, values: PackedRows, heads: int, **more) -> Tensor:
    batch, _, _, width = query.shape
    output = torch.full((batch, query.shape[1], width), torch.nan)
    fields = {
        attend.VECTORS: batch,
        attend.HEADS: query.shape[1],
        attend.GROUP: query.shape[1] // heads,
        attend.WIDTH: width,
        attend.LENGTH: keys.length,
        attend.QUERY: query.data_ptr(),
        attend.QUERY_STEP: query.shape[1] * width,
        attend.SCALE: bits_of(0.3),
        attend.OUTPUT: output.data_ptr(),
        **{getattr(attend, name): value for name, value in more.items()},
    }
    numbers = fields_of(attend_packed.FIELDS, fields)
    tell(numbers, attend_packed.KEYS, keys)
    tell(numbers, attend_packed.VALUES, values)
    job.run(attend_packed.function(expand.instructions()), numbers, 0)
    return output


@pytest.mark.parametrize("width", [16, 48, 64, 80])
@pytest.mark.parametrize(
    "names",
    [("int4g64", "int4g64"), ("int8", "int2g16"), ("int3g32s", "int5"), ("int6g128", "int7s")],
    ids=" and ".join,
)
def test_attention_is_torchs_over_what_is_stored(names, width):
    batch, heads, key_heads = 2, 6, 3
    query = random(batch, heads, 1, width)
    for length in (1, 32, 77):
        states = [random(batch, key_heads, length, width, seed=n) for n in (1, 2)]
        keys, values = (stored(name, one) for name, one in zip(names, states, strict=True))
        mask = torch.rand(batch, 1, 1, length, generator=torch.Generator().manual_seed(3)) < 0.6
        mask[..., 0] = True
        found = attended(
            query, keys, values, key_heads, MASK=mask.data_ptr(), MASK_OF_VECTOR=length
        )
        expected = nn.functional.scaled_dot_product_attention(
            query.double(),
            *(states_of(rows.read(torch.float32), key_heads).double() for rows in (keys, values)),
            attn_mask=mask,
            scale=0.3,
            enable_gqa=True,
        )
        torch.testing.assert_close(found.double(), expected[:, :, 0], atol=3e-6, rtol=3e-6)


def test_a_cap_and_a_mask_that_is_added():
    query, length = random(2, 2, 1, 32), 40
    keys, values = (stored("int4g32", random(2, 1, length, 32, seed=n)) for n in (1, 2))
    mask = random(2, 1, 1, length, seed=3)
    found = attended(
        query,
        keys,
        values,
        1,
        MASK=mask.data_ptr(),
        MASK_OF_VECTOR=length,
        MASK_IS_ADDED=1,
        CAP=bits_of(0.8),
    )
    k, v = (states_of(rows.read(torch.float32), 1).double() for rows in (keys, values))
    scores = 0.8 * (query.double() @ k.mT * 0.3 / 0.8).tanh() + mask.double()
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(found.double(), expected[:, :, 0], atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("how", ["plain", "bmi2", "vbmi2"])
def test_every_way_to_bring_codes_to_bytes(how, monkeypatch):
    ways = ["plain", "bmi2", "vbmi2"]
    if ways.index(how) > ways.index(expand.instructions()):
        pytest.skip("the processor has no such instructions")
    query = random(1, 3, 1, 64)
    keys, values = (stored("int5g32", random(1, 3, 50, 64, seed=n)) for n in (1, 2))
    expected = attended(query, keys, values, 3)
    monkeypatch.setattr(expand, "instructions", lambda: how)
    assert attended(query, keys, values, 3).equal(expected)
