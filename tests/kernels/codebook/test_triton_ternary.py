import pytest
import torch

from bitplan.errors import InputError
from bitplan.formats import base3
from bitplan.kernels.codebook import triton
from bitplan.kernels.gpu import trits
from interpreted import case, check_product, check_restoring, interpret, weight_of

CASES = [
    # A panel and 32 columns; a word of each cell, and two.
    *(case(f"ternary{group}", 40, 352, [5]) for group in ("", "g16", "g64", "g128")),
    *(case("ternaryg32d", 33, n, [3], "float16") for n in (32, 160, 192)),
    *(case(name, 7, 96, [17]) for name in ("ternaryg64", "ternary")),
    case("ternaryg128", 40, 320, [20], "float16"),
    *(case("ternaryg16", 7, 96, [n], "float32") for n in (5, 12)),
    # Columns that two programs share.
    case("ternaryg128", 40, 1312, [2]),
    *(case("ternaryg64", 7, 96, tokens) for tokens in ([0], [2, 3])),
    *(case("ternaryg64", 7, 96, [4], view=view) for view in ("transposed", "strided")),
    case("ternaryg32", 7, 96, [2], cuda=False),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


@pytest.mark.parametrize("columns", [32, 160, 192, 320, 576, 1120])
@pytest.mark.parametrize("name", ["ternary", "ternaryg16", "ternary2g64d"])
def test_restoring_gives_the_canonical_tensors_exactly(name, columns):
    planes = 2 if name.startswith("ternary2") else 1
    lacking = 4 * trits.words_of(columns) - -(-columns // base3.DIGITS)
    assert 0 <= lacking < 32
    check_restoring(name, columns, padding=37 * planes * lacking)


def test_every_byte_of_five_digits_comes_back():
    packed = torch.arange(243, dtype=torch.uint8).repeat(32)[None]
    columns = 5 * packed.shape[1]
    assert torch.equal(trits.restore(trits.arrange(packed, columns), 1, columns), packed)


def test_inputs_of_another_size_are_refused():
    weight = weight_of("ternaryg32", 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    with pytest.raises(InputError, match="have 192 features, but the weight takes at most 160"):
        triton.linear(torch.ones(1, 192), arranged, weight.scheme)
