import pytest
import torch

from bitplan.errors import InputError
from bitplan.kernels.planes import triton
from interpreted import case, check_gradients, check_product, check_restoring, interpret, weight_of

CASES = [
    *(case(name, 40, 288, [2]) for name in ("binary2", "binary2g16", "binary2g64d")),
    *(case(name, 33, 96, [3], "float16") for name in ("binary2g32", "binary2g128")),
    *(case(name, 7, 96, [17]) for name in ("binary2g64", "binary2g32d")),
    case("binary2g32", 40, 96, [20], "float16"),
    case("binary2g16", 7, 96, [5], "float32"),
    case("ternary2g32", 40, 288, [2]),
    case("ternary2g64d", 33, 96, [3], "float16"),
    case("ternary2", 7, 96, [17]),
    # Columns that two programs share.
    case("binary2g64", 40, 1056, [2]),
    *(case("binary2g64", 7, 96, tokens) for tokens in ([0], [2, 3])),
    *(case("binary2g64", 7, 96, [4], view=view) for view in ("transposed", "strided")),
    case("binary2g32", 7, 96, [2], cuda=False),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


@pytest.mark.parametrize("columns", [32, 96, 256, 576, 1120])
@pytest.mark.parametrize("name", ["binary2", "binary2g16", "binary2g64d"])
def test_restoring_gives_the_canonical_tensors_exactly(name, columns):
    check_restoring(name, columns)


def test_gradients_are_the_references():
    check_gradients("binary2g32")


def test_inputs_of_another_size_are_refused():
    weight = weight_of("binary2g32", 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    with pytest.raises(InputError, match="have 64 features, but the weight takes 96"):
        triton.linear(torch.ones(1, 64), arranged, weight.scheme)
