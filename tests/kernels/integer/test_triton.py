import pytest
import torch

from bitplan.errors import InputError
from bitplan.kernels.integer import triton
from interpreted import (
    case,
    check_gradients,
    check_on_device,
    check_product,
    check_restoring,
    interpret,
    weight_of,
)

CASES = [
    *(case(f"int{bits}g128", 40, 288, [2]) for bits in range(2, 9)),
    *(case(f"int{bits}s", 40, 256, [3], "float16") for bits in range(2, 9)),
    *(case(f"int{bits}g128", 40, 256, [17]) for bits in (2, 3, 5, 8)),
    *(case(name, 40, 544, [40], "float16") for name in ("int4g128s", "int6", "int8s")),
    *(case(f"int4g{group}", 70, 320, [1]) for group in (16, 32, 64)),
    *(case(f"int4g{group}s", 40, 288, [1]) for group in (16, 32, 64)),
    *(case("int4g64", 40, 96, tokens) for tokens in ([], [0], [2, 0], [2, 3], [16], [17], [40])),
    *(case("int4g64", 1, n, [2], "float32") for n in (32, 64, 96, 128, 224)),
    *(case(name, 33, 96, [5], "float32") for name in ("int4g32", "int8g16s", "int3", "int7s")),
    case("int4g128s", 33, 96, [20], "float32"),
    # Scales that are codes, and groups that do and do not fill a word of the grid.
    *(case(name, 33, 96, [3]) for name in ("int4g64d", "int3g32d", "int4g16sd")),
    *(case(name, 33, 288, [3], "float16") for name in ("int8g32d", "int4g128sd")),
    *(case("int4g16d", 33, 256, [n]) for n in (3, 18)),
    # Two steps a row, the second of few groups; and of some that two words and no panel hold.
    *(case(name, 7, 4384, [3]) for name in ("int4g16d", "int3g16sd")),
    case("int2g16d", 7, 4352, [18], "float16"),
    # Columns that two programs share.
    case("int2s", 70, 1056, [2]),
    case("int4g128", 40, 1024, [2], "float16"),
    *(case("int4g64", 40, 96, [n], view=v) for n in (4, 20) for v in ("transposed", "strided")),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


@pytest.mark.parametrize("columns", [32, 64, 96, 224, 256, 576, 1120])
@pytest.mark.parametrize(
    "name",
    [
        "int2g16",
        "int3",
        "int4g64s",
        "int5g32",
        "int6s",
        "int7g128",
        "int8s",
        "int4g16d",
        "int3g32sd",
    ],
)
def test_restoring_gives_the_canonical_tensors_exactly(name, columns):
    check_restoring(name, columns)


def test_gradients_are_the_references():
    check_gradients("int4g32")


def test_inputs_of_another_size_are_refused():
    weight = weight_of("int4g32", 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    with pytest.raises(InputError, match="have 64 features, but the weight takes 96"):
        triton.linear(torch.ones(1, 64), arranged, weight.scheme)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int2g32", "int3g64", "int4g64", "int4g128s", "int8s"])
@pytest.mark.parametrize("tokens", [1, 5, 16, 17, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_on_a_device(name, tokens, dtype):
    check_on_device(name, tokens, dtype)
