from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from bitplan.kernels.decoder import attend, gate, norm, rotate
from bitplan.kernels.decoder.roles import GELU_TANH, SILU
from bitplan.kernels.decoder.terms import phases_of
from bitplan.kernels.native import job
from bitplan.kernels.native.dense import dense
from bitplan.kernels.native.floats import bits_of, fields_of
from bitplan.kernels.native.job import Term
from bitplan.kernels.native.program import Program

DTYPES = [torch.float32, torch.bfloat16]


def random(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size


def done(module, values: Mapping[int, int | float]) -> None:
    """Do a job of these fields; those that are floats are kept as such."""
    numbers = {k: bits_of(v) if isinstance(v, float) else int(v) for k, v in values.items()}
    job.run(module.function(), fields_of(module.FIELDS, numbers), 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 5, 700])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("width", [20, 32])
def test_attention_is_torchs(width, length, masked, dtype):
    batch, heads, key_heads = 3, 6, 2
    query = random(batch, heads, 1, width, size=2)
    # As a cache that has room for more gives them, and one whose tokens come before its heads.
    keys = random(batch, key_heads, length + 3, width, seed=1).to(dtype)[:, :, :length]
    values = random(batch, length, key_heads, width, seed=2).to(dtype).transpose(1, 2)
    mask = torch.rand(batch, 1, 1, length, generator=torch.Generator().manual_seed(3)) < 0.6
    mask[..., 0] = True
    output = torch.full((batch, heads, width), torch.nan)
    of_keys, of_values = keys.stride(), values.stride()
    done(
        attend,
        {
            attend.VECTORS: batch,
            attend.HEADS: heads,
            attend.GROUP: heads // key_heads,
            attend.WIDTH: width,
            attend.LENGTH: length,
            attend.IS_HALF: dtype == torch.bfloat16,
            attend.QUERY: query.data_ptr(),
            attend.QUERY_STEP: heads * width,
            attend.KEYS: keys.data_ptr(),
            attend.KEYS_OF_VECTOR: of_keys[0],
            attend.KEYS_OF_HEAD: of_keys[1],
            attend.KEYS_OF_TOKEN: of_keys[2],
            attend.VALUES: values.data_ptr(),
            attend.VALUES_OF_VECTOR: of_values[0],
            attend.VALUES_OF_HEAD: of_values[1],
            attend.VALUES_OF_TOKEN: of_values[2],
            attend.MASK: mask.data_ptr() if masked else 0,
            attend.MASK_OF_VECTOR: length,
            attend.SCALE: 0.3,
            attend.OUTPUT: output.data_ptr(),
        },
    )
    expected = nn.functional.scaled_dot_product_attention(
        query.double(),
        keys.double(),
        values.double(),
        attn_mask=mask if masked else None,
        scale=0.3,
        enable_gqa=True,
    )
    torch.testing.assert_close(output.double(), expected[:, :, 0], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_with_a_cap_and_a_mask_that_is_added(dtype):
    batch, heads, width, length = 3, 2, 16, 9
    side_by_side = random(batch, 1, heads * width + 5, size=2)  # what follows is not the queries'
    keys, values = (random(batch, heads, length, width, seed=n).to(dtype) for n in (1, 2))
    mask = random(batch, 1, 1, length, seed=3).to(dtype)
    mask[1, ..., 4:] = torch.finfo(dtype).min
    output = torch.full((batch, heads, width), torch.nan)
    done(
        attend,
        {
            attend.VECTORS: batch,
            attend.HEADS: heads,
            attend.GROUP: 1,
            attend.WIDTH: width,
            attend.LENGTH: length,
            attend.IS_HALF: dtype == torch.bfloat16,
            attend.QUERY: side_by_side.data_ptr(),
            attend.QUERY_STEP: heads * width + 5,
            attend.KEYS: keys.data_ptr(),
            attend.KEYS_OF_VECTOR: heads * length * width,
            attend.KEYS_OF_HEAD: length * width,
            attend.KEYS_OF_TOKEN: width,
            attend.VALUES: values.data_ptr(),
            attend.VALUES_OF_VECTOR: heads * length * width,
            attend.VALUES_OF_HEAD: length * width,
            attend.VALUES_OF_TOKEN: width,
            attend.MASK: mask.data_ptr(),
            attend.MASK_OF_VECTOR: length,
            attend.MASK_IS_ADDED: True,
            attend.SCALE: 0.3,
            attend.CAP: 1.5,
            attend.OUTPUT: output.data_ptr(),
        },
    )
    query = side_by_side[..., : heads * width].view(batch, heads, 1, width).double()
    scores = 1.5 * (query @ keys.double().mT * 0.3 / 1.5).tanh() + mask.double()
    expected = scores.softmax(-1) @ values.double()
    torch.testing.assert_close(output.double(), expected[:, :, 0], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("together", [True, False], ids=["side by side", "apart"])
@pytest.mark.parametrize("kind", [SILU, GELU_TANH], ids=["SiLU", "GELU"])
@pytest.mark.parametrize("columns", [1, 96, 1100])
def test_gate_is_torchs(columns, kind, together):
    both = random(2, 2, columns, size=20)
    both[0, 0] = -1e4
    values, up = both[:, 0], both[:, 1]
    bias, up_bias = (random(columns, seed=n) for n in (2, 3))
    opened = values.double() + bias.double()
    if kind == SILU:
        opened = nn.functional.silu(opened)
    else:
        opened = nn.functional.gelu(opened, approximate="tanh")
    expected = opened * (up.double() + up_bias.double())
    output = torch.full((2, columns), torch.nan)
    if not together:
        values, up = values.contiguous(), up.contiguous()
    done(
        gate,
        {
            gate.VECTORS: 2,
            gate.COLUMNS: columns,
            gate.KIND: kind,
            gate.GATE: values.data_ptr(),
            gate.UP: up.data_ptr(),
            gate.STEP: 2 * columns if together else columns,
            gate.GATE_BIAS: bias.data_ptr(),
            gate.UP_BIAS: up_bias.data_ptr(),
            gate.OUTPUT: output.data_ptr(),
        },
    )
    torch.testing.assert_close(output.double(), expected, atol=1e-6, rtol=3e-6)


def test_what_is_no_number_stays_none():
    values, up, gated = torch.tensor([torch.nan, 1.0]), torch.ones(2), torch.zeros(2)
    fields = {gate.VECTORS: 1, gate.COLUMNS: 2, gate.GATE: values.data_ptr()}
    done(gate, fields | {gate.UP: up.data_ptr(), gate.OUTPUT: gated.data_ptr()})
    assert gated.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("one", [0.0, 1.0], ids=["weight", "1 + weight"])
@pytest.mark.parametrize("which", ["before", "after", "both"])
def test_norm_of_a_sum_is_torchs(which, one, dtype):
    base, weight = random(3, 70).to(dtype), random(70, seed=1).to(dtype)
    bias, added = random(70, seed=2).to(dtype), random(3, 70, seed=3)
    of_added = random(70, seed=4).to(dtype)
    total, normed = torch.empty_like(base), torch.full((3, 70), torch.nan)
    half = dtype == torch.bfloat16
    done(
        norm,
        {
            norm.VECTORS: 3,
            norm.COLUMNS: 70,
            norm.BASE: base.data_ptr(),
            norm.BASE_IS_HALF: half,
            norm.ADDED: added.data_ptr(),
            norm.BIAS: bias.data_ptr(),
            norm.IS_HALF: half,
            norm.SUM: total.data_ptr(),
            norm.SUM_IS_HALF: half,
            norm.ADDED_WEIGHT: 0 if which == "before" else of_added.data_ptr(),
            norm.ADDED_EPS: 0.02,
            norm.FACTOR: 0.7,
            norm.ONE: one,
            norm.WEIGHT: 0 if which == "after" else weight.data_ptr(),
            norm.NORMED: normed.data_ptr(),
            norm.EPS: 0.01,
        },
    )
    expected = added.double() + bias.double()
    if which != "before":
        expected = nn.functional.rms_norm(expected, (70,), of_added.double() + one, eps=0.02)
    expected = base.double() + 0.7 * expected
    torch.testing.assert_close(total, expected.to(dtype))
    if which != "after":
        expected = nn.functional.rms_norm(expected, (70,), weight.double() + one, eps=0.01)
    torch.testing.assert_close(normed.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("has_norms", [True, False], ids=["norms", "no norms"])
@pytest.mark.parametrize("together", [True, False], ids=["one place", "places"])
def test_rotation_is_transformers(together, has_norms):
    from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

    heads, key_heads, width = 4, 2, 12
    query, keys, values = (random(3, n, width, seed=n) for n in (heads, key_heads, key_heads))
    values = values + 1
    weight, angles = random(width, seed=5), random(1 if together else 3, 1, width // 2, seed=6)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    bias = random(heads * width, seed=7)
    expected = [query.double() + bias.view(heads, width).double(), keys.double()]
    if has_norms:
        expected = [nn.functional.rms_norm(x, (width,), weight.double(), 1e-6) for x in expected]
    expected = apply_rotary_pos_emb(*(x[:, :, None] for x in expected), cos, sin)
    turned, kept, valued = query.clone(), torch.empty_like(keys), torch.empty_like(values)
    done(
        rotate,
        {
            rotate.VECTORS: 3,
            rotate.HEADS: heads,
            rotate.KEY_HEADS: key_heads,
            rotate.WIDTH: width,
            rotate.COS: cos.data_ptr(),
            rotate.SIN: sin.data_ptr(),
            rotate.STEP: 0 if together else width,
            rotate.ROTATED: width,
            rotate.QUERY_STEP: heads * width,
            rotate.KEY_STEP: key_heads * width,
            rotate.QUERY: turned.data_ptr(),
            rotate.KEY: keys.data_ptr(),
            rotate.VALUE: values.data_ptr(),
            rotate.QUERY_BIAS: bias.data_ptr(),
            rotate.QUERY_NORM: weight.data_ptr() if has_norms else 0,
            rotate.KEY_NORM: weight.data_ptr() if has_norms else 0,
            rotate.EPS: 1e-6,
            rotate.KEY_OUT: kept.data_ptr(),
            rotate.VALUE_OUT: valued.data_ptr(),
        },
    )
    for found, one in ((turned, expected[0]), (kept, expected[1])):
        torch.testing.assert_close(found.double(), one[:, :, 0], atol=1e-6, rtol=1e-6)
    assert valued.equal(values)


@pytest.mark.parametrize("rotated", [0, 8, 12])
def test_rotation_of_what_lies_side_by_side_normalised_as_a_whole(rotated):
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    heads, key_heads, width = 4, 2, 12
    side_by_side = random(3, (heads + 2 * key_heads) * width).clone()
    sizes = [heads * width, key_heads * width, key_heads * width]
    query, keys, values = side_by_side.split(sizes, dim=-1)
    angles = random(3, 1, rotated // 2, seed=6)
    cos, sin = (f(torch.cat([angles, angles], -1)).bfloat16() for f in (torch.cos, torch.sin))
    weight, key_weight = random(sizes[0], seed=1), random(sizes[1], seed=2)
    kept, valued = (torch.empty(3, sizes[1]) for _ in range(2))
    expected = [
        nn.functional.rms_norm(x.double(), x.shape[1:], w.double() + 1, 0.01).view(3, -1, 1, width)
        for x, w in ((query, weight), (keys, key_weight))
    ]
    if rotated:
        expected = apply_rotary_pos_emb(*expected, cos.double(), sin.double())
    given = values.clone()
    done(
        rotate,
        {
            rotate.VECTORS: 3,
            rotate.HEADS: heads,
            rotate.KEY_HEADS: key_heads,
            rotate.WIDTH: width,
            rotate.COS: cos.data_ptr(),
            rotate.SIN: sin.data_ptr(),
            rotate.COS_IS_HALF: True,
            rotate.STEP: rotated,
            rotate.ROTATED: rotated,
            rotate.QUERY: query.data_ptr(),
            rotate.KEY: keys.data_ptr(),
            rotate.VALUE: values.data_ptr(),
            rotate.QUERY_STEP: sum(sizes),
            rotate.KEY_STEP: sum(sizes),
            rotate.QUERY_NORM: weight.data_ptr(),
            rotate.KEY_NORM: key_weight.data_ptr(),
            rotate.NORM_IS_WHOLE: True,
            rotate.ONE: 1.0,
            rotate.EPS: 0.01,
            rotate.KEY_OUT: kept.data_ptr(),
            rotate.VALUE_OUT: valued.data_ptr(),
        },
    )
    for found, one in ((query, expected[0]), (kept, expected[1])):
        torch.testing.assert_close(found.double(), one.flatten(1), atol=1e-6, rtol=1e-6)
    assert valued.equal(given)


def test_a_product_is_the_sum_of_its_terms():
    columns = torch.tensor([1, 4, 8, 30], dtype=torch.int32)
    of_all, down, up = random(2100, 40), random(5, 4, seed=1), random(2100, 5, seed=2)
    of_some, inputs = random(2100, 4, seed=3), random(3, 40, seed=4)
    every = [dense(weight, 3) for weight in (of_all, of_some, down, up)]
    first, second, third, last = (some[0] for some in every if some)
    terms = [first, Term(second.jobs, columns), Term((*third.jobs, *last.jobs), columns)]
    output, between = torch.full((3, 2100), torch.nan), {}

    def place(name: str, count: int) -> int:
        return between.setdefault(name, torch.full((count,), torch.nan)).data_ptr()

    program = Program(phases_of(terms, inputs.data_ptr(), 40, output.data_ptr(), place))
    some, wide = inputs[:, columns.long()].double(), inputs.double()
    expected = wide @ of_all.T.double() + some @ of_some.T.double()
    expected += some @ down.T.double() @ up.T.double()
    for _ in range(2):  # as often as it is run
        program.run()
        torch.testing.assert_close(output.double(), expected, atol=1e-4, rtol=1e-5)
        output.fill_(torch.nan)
    assert len(between) == 4  # one gathering for both, and three products
