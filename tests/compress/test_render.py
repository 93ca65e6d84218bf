import pytest
import torch
from torch import Tensor

from bitplan.compress import QUANTIZERS, get_quantizer, render
from bitplan.compress.by_rows import ROWS_AT_ONCE
from bitplan.compress.curvature import Curvature
from bitplan.errors import InputError
from bitplan.formats import Packed
from bitplan.schema import Scheme

NAMES = [
    *("int2g32", "int3", "int8s", "bf16", "int4g64", "int4g32", "int2g64s"),
    *("fp32", "int8g64", "int5", "fp16", "int7g16", "nvfp4", "nf4g64", "ternaryg32", "sign"),
    *("fp8", "mxfp4", "bfp5g16", "fp6e3m2g64", "int2g64d", "int4g64d", "int4g64sd", "int3g32d"),
]
MENU = [Scheme.parse(name) for name in NAMES]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(columns: int) -> Tensor:
    inputs = random(2 * columns, columns, seed=5) @ random(columns, columns, seed=6)
    return inputs.t() @ inputs / len(inputs)


def same(one: Packed, other: Packed) -> bool:
    return (one.scheme, one.shape, set(one.tensors)) == (
        other.scheme,
        other.shape,
        set(other.tensors),
    ) and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(
    ("shape", "threads"), [((3, 70), 1), ((7, 300), 1), ((17, 200), 2), ((1, 129), 1)]
)
def test_a_scheme_comes_out_the_same_alone_and_beside_others(quantizer, shape, threads):
    torch.set_num_threads(threads)
    weight, seen = random(*shape), covariance(shape[1])
    together = render(weight, MENU, quantizer=quantizer, covariance=seen)
    assert list(together) == MENU
    for scheme in MENU:
        alone = render(weight, [scheme], quantizer=quantizer, covariance=seen)
        assert same(alone[scheme], together[scheme]), scheme


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_same_again(quantizer):
    weight, seen = random(40, 100), covariance(100)
    first, second = (render(weight, MENU, quantizer=quantizer, covariance=seen) for _ in range(2))
    assert all(same(first[scheme], second[scheme]) for scheme in MENU)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_many_rows_are_rendered_in_parts_that_join_seamlessly(quantizer):
    names = ("int2g32", "int4g32", "int3g32s", "nvfp4", "nf4g32", "mxfp6")
    schemes = [Scheme.parse(name) for name in names]
    rows = ROWS_AT_ONCE // len(names) + 5
    weight, seen = random(rows, 40), covariance(40)
    weight[0, 7], weight[-1, 3] = 9.0, -20.0  # a matrix's scale is of all its rows
    whole = get_quantizer(quantizer)(weight, schemes, Curvature(covariance=seen))
    parts = render(weight, schemes, quantizer=quantizer, covariance=seen)
    assert all(same(one, parts[one.scheme]) for one in whole)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("seen", [True, False], ids=["statistics", "none"])
def test_experts_are_rendered_each_with_its_own_statistics(quantizer, seen):
    weight = random(3, 10, 70)
    h = torch.stack([covariance(70) * k for k in (1, 0, 5)]) if seen else None
    together = render(weight, MENU, quantizer=quantizer, covariance=h)
    for e in range(3):
        alone = render(weight[e], MENU, quantizer=quantizer, covariance=None if h is None else h[e])
        for scheme in MENU:
            assert together[scheme].shape == (3, 10, 70)
            for name, tensor in alone[scheme].tensors.items():
                assert torch.equal(together[scheme].tensors[name][e], tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_dtype_and_layout(dtype):
    weight = random(70, 12).to(dtype).t()
    kept = weight.clone()
    rendered = render(weight, MENU)
    assert torch.equal(weight, kept)
    expected = render(weight.float().contiguous(), MENU)
    assert all(same(rendered[s], expected[s]) for s in MENU if not s.is_float)
    # A float scheme narrower than the weight rounds it once.
    assert torch.equal(rendered[Scheme.parse("bf16")].tensors["weight"], weight.to(torch.bfloat16))


def test_gradients_are_not_recorded():
    weight = torch.nn.Parameter(random(4, 40))
    for packed in render(weight, MENU, covariance=covariance(40)).values():
        assert not any(tensor.requires_grad for tensor in packed.tensors.values())


def test_everything_that_is_rendered_is_contiguous():
    for packed in render(random(5, 7).t(), MENU).values():
        assert all(tensor.is_contiguous() for tensor in packed.tensors.values())


def test_no_schemes_no_weights():
    assert render(random(2, 3), []) == {}


def test_an_unknown_quantizer_is_refused_with_those_there_are():
    with pytest.raises(
        InputError,
        match=r"no quantizer 'awq'.*gptq, .*signround, discquant, admm, icbs, clip, .*hqq, rtn",
    ):
        render(random(2, 3), MENU, quantizer="awq")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_weight_that_is_not_finite_is_refused(value, quantizer, dtype):
    weight = random(2, 3, 40).to(dtype)
    weight[1, 2, 3] = value
    with pytest.raises(InputError, match=r"weight holds NaN or infinite values.*Load the model"):
        render(weight, MENU, quantizer=quantizer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "quantizer", ["clip", "gptq", "quantease", "signround", "discquant", "admm", "icbs", "dsnot"]
)
def test_statistics_that_overflowed_are_refused(value, quantizer):
    seen = covariance(40)
    seen[3, 4] = value
    with pytest.raises(InputError, match=r"NaN or infinite.*measure again"):
        render(random(2, 40), MENU, quantizer=quantizer, covariance=seen)
