import pytest

from interpreted import case, check_gradients, check_product, check_restoring, interpret

NAMES = ["bitmod4g64", "bitmod3g32", "bitmod4g16d"]
CASES = [
    *(case(name, 40, 288, [2]) for name in NAMES),
    *(case(name, 33, 96, [3], "float16") for name in ("bitmod4", "bitmod3", "bitmod3g128")),
    *(case(name, 7, 96, [17]) for name in NAMES),
    case("bitmod4g32", 40, 96, [20], "float16"),
    case("bitmod3g16", 7, 96, [5], "float32"),
    # Sixteen groups whose choices share a word, and eight.
    *(case("bitmod4g16", 33, n, [1]) for n in (128, 256)),
    *(case("bitmod3g16", 33, n, [1]) for n in (32, 512)),
    # Columns that two programs share.
    case("bitmod4g64", 40, 1056, [2]),
    *(case("bitmod4g64", 7, 96, tokens) for tokens in ([0], [2, 3])),
    *(case("bitmod3g64", 7, 96, [4], view=view) for view in ("transposed", "strided")),
    *(case(name, 7, 96, [2], cuda=False) for name in ("bitmod4g32", "bitmod3")),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


@pytest.mark.parametrize("columns", [32, 96, 256, 576, 1120])
@pytest.mark.parametrize("name", ["bitmod4", "bitmod3", "bitmod3g16", *NAMES])
def test_restoring_gives_the_canonical_tensors_exactly(name, columns):
    check_restoring(name, columns)


def test_gradients_are_the_references():
    check_gradients("bitmod4g32")
