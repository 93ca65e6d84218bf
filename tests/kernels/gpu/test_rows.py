"""Rows that are looked up in what the products read: those that the reference decodes."""

import pytest
import torch

from bitplan.kernels import arranged_for
from bitplan.packed_weight import PackedWeight
from interpreted import interpret, weight_of
from interpreted_rows import rows_case

PLACES = [0, 36, 5, 5, 17]
# A unit in the last place: the interpreter cuts bfloat16 off where a device rounds.
LIMITS = {"float32": 0.0, "float16": 2**-10, "bfloat16": 2**-7}
FAMILIES = [
    *(f"int{bits}g64" for bits in range(2, 9)),
    *("int3", "int5s", "int4g16d", "int4g128sd", "int8g32d"),
    *("signg64", "fp8g64", "fp8e5m2", "fp6g64", "fp6e3m2g32", "fp4g64", "nf4g64", "nf3g16"),
    *("nf4g32d", "bitmod4g64", "bitmod3g16", "bitmod3", "bfp3g64", "bfp8g32"),
    *("mxfp8", "mxfp6", "mxfp4", "nvfp4", "ternary", "ternaryg16", "ternaryg128", "ternaryg32d"),
    *("binary2", "binary2g16", "binary2g64d", "ternary2g64", "ternary2g32d"),
]
CASES = [
    # A whole panel and one of 32 columns; of ternary codes less than one.
    *(rows_case(name, 288, PLACES) for name in FAMILIES),
    *(rows_case(name, 224, PLACES) for name in ("int3g16", "nf4", "nvfp4")),
    *(rows_case("int4g64", n, PLACES) for n in (32, 64, 128, 480, 544)),
    *(rows_case("ternaryg128", n, PLACES) for n in (32, 192, 320, 352, 672)),
    *(rows_case(name, 4128, PLACES) for name in ("int4g16d", "ternary2g16d")),
    *(rows_case("int4g32", 96, PLACES, dtype) for dtype in LIMITS),
    *(rows_case("nf4g32", 96, PLACES, dtype) for dtype in ("float16", "bfloat16")),
    rows_case("int4g32", 96, PLACES, kind="int32"),
    rows_case("int4g32", 96, [[PLACES, PLACES[::-1]]], view="strided"),
    rows_case("int4g32", 96, list(range(37)) * 2),
    *(rows_case("int4g32", 96, places) for places in (36, [], [[], []])),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_rows_are_the_references(results, number):
    # NaN is not below anything: what was never written would show.
    assert results[number]["error"] <= LIMITS[CASES[number]["dtype"]]


@pytest.mark.parametrize("name", ["int4g32", "nf4g32", "binary2g32"])
def test_the_way_back_to_scales_is_the_references(name):
    packed = weight_of(name, 37, 96)
    tokens, slopes = torch.tensor([[3, 36], [3, 0]]), []
    for kernel in ("triton", "reference"):
        weight = PackedWeight(packed, compute_dtype=torch.float32)
        weight.lay_out(kernel)
        weight.requires_grad_(True)
        rows = weight.lookup(tokens)
        found = torch.autograd.grad(rows.square().sum(), [*weight.parameters()])
        slopes.append(torch.cat([slope.float().flatten() for slope in found]).sort().values)
        assert rows.shape == (2, 2, 96)
    assert torch.equal(*slopes)
    assert slopes[0].any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int3g64", "int4g64", "int8s", "nf4g64", "nvfp4", "ternaryg64"])
@pytest.mark.parametrize("dtype", LIMITS)
def test_rows_on_a_device_are_the_references_to_the_bit(name, dtype):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    weight, kind = weight_of(name, 1000, 1632), getattr(torch, dtype)
    triton = arranged_for(weight.scheme, "triton")
    arranged = triton.arrange(weight.tensors, weight.scheme, 1632)
    held = {key: tensor.cuda() for key, tensor in arranged.items()}
    tokens = torch.randint(0, 1000, (3, 50), generator=torch.Generator().manual_seed(1))
    found = triton.lookup(tokens.cuda(), held, weight.scheme, 1632, kind).cpu()
    assert torch.equal(found, weight.decode(kind)[tokens])
