import pytest
import torch

from bitplan.errors import InputError
from bitplan.kernels.codebook import triton
from interpreted import (
    case,
    check_gradients,
    check_on_device,
    check_product,
    check_restoring,
    interpret,
    weight_of,
)

FLOATS = ["fp8", "fp8e5m2", "fp6", "fp6e3m2", "fp4"]
MX = ["mxfp8", "mxfp8e5m2", "mxfp6", "mxfp6e3m2", "mxfp4", "nvfp4"]
CHOSEN = ["bitmod4g64", "bitmod3g16"]
TERNARY = ["ternary", "ternaryg16", "ternaryg128"]
TWO = ["binary2g64", "ternary2g32d"]
BFP = [f"bfp{bits}" for bits in range(3, 9)]
CASES = [
    *(case(f"{name}g64", 40, 288, [2]) for name in ("sign", *FLOATS, "nf4", "nf3", *BFP)),
    *(case(name, 40, 96, [3], "float16") for name in ("sign", *FLOATS, "nf4", "nf3", *BFP)),
    *(case(name, 40, 288, [2]) for name in MX),
    *(case(name, 33, 96, [3], "float16") for name in MX),
    # Weights are made before they are multiplied.
    *(case(name, 40, 96, [17]) for name in ("signg64", "fp8", "nf4g32", "nf3g16", "bfp8", "nvfp4")),
    *(case(name, 40, 96, [40], "float16") for name in ("fp6", "mxfp4", "nf4", "bfp3g16")),
    # Groups that share a word of the grid, and those that do not.
    *(case("nf4g16", 33, n, [1]) for n in (32, 160, 224)),
    *(case(name, 33, n, [3]) for name in ("bfp3g128", "mxfp6", "nvfp4") for n in (224, 512)),
    *(case(name, 7, 96, [5], "float32") for name in ("sign", "fp8", "fp4g16", "nf4g32", "nf3")),
    *(case(name, 7, 96, [18], "float32") for name in ("mxfp6", "nvfp4", "bfp8")),
    *(case("nvfp4", 40, 96, tokens) for tokens in ([], [0], [2, 0], [2, 3], [16])),
    *(case("nf4g64", 40, 96, [n], view=v) for n in (4, 20) for v in ("transposed", "strided")),
    # Scales that are codes.
    *(case(name, 33, 96, [n]) for name in ("nf4g16d", "fp8g64d") for n in (3, 18)),
    case("nf3g32d", 33, 256, [3], "float16"),
    case("ternary2g16d", 3, 4128, [2]),
    # Columns that two programs share.
    case("mxfp4", 40, 1056, [2]),
    # AMD's order of a table's places, and its own numbers.
    *(case(name, 40, 96, [2], "float16", cuda=False) for name in ("nf4g32", "nf3", "fp8", "mxfp4")),
    *(case(name, 40, 96, [2], cuda=False) for name in ("nf4g32", "nf3g16", "fp6", "sign")),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


@pytest.mark.parametrize("columns", [32, 96, 224, 256, 576, 1120])
@pytest.mark.parametrize(
    "name", ["sign", "fp8g16", "fp6g32d", "nf3g64", "nf4", "bfp3g16", "bfp8", *MX]
)
def test_restoring_gives_the_canonical_tensors_exactly(name, columns):
    check_restoring(name, columns)


@pytest.mark.parametrize("name", ["nf4g32", "nvfp4"])
def test_gradients_are_the_references(name):
    check_gradients(name)


def test_inputs_of_another_size_are_refused():
    weight = weight_of("mxfp4", 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    with pytest.raises(InputError, match="have 64 features, but the weight takes 96"):
        triton.linear(torch.ones(1, 64), arranged, weight.scheme)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["sign", *FLOATS, "nf4g64", "nf3g16", "bfp3g128", "bfp8", *MX, *CHOSEN, *TERNARY, *TWO]
)
@pytest.mark.parametrize("tokens", [1, 16, 17, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_on_a_device(name, tokens, dtype):
    check_on_device(name, tokens, dtype)
