import pytest
import torch

from bitplan.errors import InputError
from bitplan.kernels.sparse import triton
from interpreted import (
    case,
    check_gradients,
    check_on_device,
    check_product,
    check_restoring,
    interpret,
    weight_of,
)

BLOCKS = [f"{n}:{m}" for m in (2, 4, 8) for n in range(1, m)]
CASES = [
    # Every pattern of kept places, and codes that do and do not fill words and bytes.
    *(case(f"int4g64+{pattern}", 40, 288, [2]) for pattern in BLOCKS),
    *(case(f"int{bits}+2:4", 33, 96, [3], "float16") for bits in range(2, 9)),
    *(case(f"int{bits}s+5:8", 33, 96, [3]) for bits in range(2, 9)),
    *(case(f"int{bits}+60%", 33, 288, [3]) for bits in range(2, 9)),
    *(case(f"int4g64+{n}%", 40, 288, [2], "float16") for n in (1, 30, 97)),
    # Columns that are no whole panel, and those that two programs share.
    *(case(name, 7, n, [2]) for name in ("int3g32+2:4", "int4+50%") for n in (32, 64, 160, 224)),
    *(case(name, 40, 1056, [2], "float16") for name in ("int4g128+2:4", "int3g64s+40%")),
    case("int4g64+4:8", 40, 736, [2]),
    # Groups.
    *(case(f"int4g{group}+1:2", 33, 96, [3]) for group in (16, 32, 128)),
    *(case(f"int4g{group}s+3:4", 33, 160, [3]) for group in (32, 64)),
    *(case(f"int4g{group}+50%", 33, 160, [3]) for group in (16, 32, 64)),
    *(case(name, 33, 288, [3], "float16") for name in ("int4g64d+2:4", "nf4g16d+50%")),
    # Codes of all kinds.
    *(case(f"{name}+2:4", 33, 96, [3]) for name in ("sign", "fp8", "fp6e3m2", "nf4", "bfp5")),
    *(case(f"{name}+2:4", 33, 96, [3], "float16") for name in ("mxfp4", "fp4", "nf3g64", "bfp8")),
    *(case(f"{name}+50%", 33, 96, [3]) for name in ("sign", "mxfp8", "nvfp4", "nf3g16", "bfp3")),
    *(case(f"bitmod{name}", 33, 96, [3]) for name in ("4g64+2:4", "3g16+50%")),
    # Weights are made before they are multiplied.
    *(case(name, 40, 288, [17]) for name in ("int4g64+2:4", "int8+1:4", "int4g16+50%", "nf4+3:8")),
    *(case(name, 40, 96, [40], "float16") for name in ("int3s+7:8", "mxfp4+50%", "sign+2:4")),
    *(case("int4g64+2:4", 40, 96, tokens) for tokens in ([], [0], [2, 0], [2, 3], [16])),
    # As exact as float32.
    *(case(name, 7, 96, [5], "float32") for name in ("int4g64+2:4", "int8s+1:8", "nf4g32+30%")),
    *(case(name, 7, 96, [18], "float32") for name in ("int3+50%", "mxfp6+1:2")),
    *(
        case(name, 40, 288, [n], view=v)
        for name in ("int4g64+2:4", "int4g64+50%")
        for n, v in ((4, "transposed"), (20, "strided"))
    ),
    # AMD's order of bytes' places.
    *(case(f"int4g64+{s}", 40, 288, [2], cuda=False) for s in ("2:4", "4:8", "50%")),
    case("nf4g64+2:4", 40, 288, [2], "float16", cuda=False),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references(results, number):
    check_product(CASES[number], results[number])


# Of 37 rows: a byte of a row with a cell by itself; half a byte of a cell with an odd number of
# nibbles; and of streams 4 bytes for each two panels, less what fewer bytes than eight codes take.
@pytest.mark.parametrize(
    ("name", "columns", "padding"),
    [
        ("int4g64+2:4", 512, 0),
        ("int4g64+2:4", 224, 37),
        ("int3g64+2:4", 320, 0),
        ("int2+1:2", 1120, 0),
        ("nf4g64+1:4", 352, 0),
        ("sign+3:4", 256, 0),
        ("bitmod4g64+2:4", 512, 0),
        ("int4g64+4:8", 256, 4 * 37),
        ("bfp4+2:8", 256, 4 * 37),
        ("int7g64+7:8", 512, 0),
        ("int4g64d+50%", 512, 4 * 37),
        ("int3g16+30%", 256, 3 * 37),
        ("nvfp4+50%", 1024, 8 * 37),
        ("int8s+50%", 1120, 12 * 37),
    ],
)
def test_restoring_gives_the_canonical_tensors_exactly(name, columns, padding):
    check_restoring(name, columns, padding=padding)


def test_more_rows_than_are_arranged_at_once(monkeypatch):
    monkeypatch.setattr("bitplan.kernels.gpu.sparse_layout.ROWS_AT_ONCE", 16)
    check_restoring("int5g64+2:4", 512)
    check_restoring("int4g64+50%", 512, padding=4 * 37)


@pytest.mark.parametrize("name", ["int4g32+2:4", "nf4g32+50%"])
def test_gradients_are_the_references(name):
    check_gradients(name)


@pytest.mark.parametrize("name", ["int4g32+2:4", "int4g32+50%"])
def test_inputs_of_another_size_are_refused(name):
    weight = weight_of(name, 40, 96)
    arranged = triton.arrange(weight.tensors, weight.scheme, 96)
    with pytest.raises(InputError, match="have 64 features, but the weight takes 96"):
        triton.linear(torch.ones(1, 64), arranged, weight.scheme)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name",
    [
        *(f"int4g64+{pattern}" for pattern in BLOCKS),
        *(f"int{bits}g64+{s}" for bits in (2, 3, 5, 8) for s in ("2:4", "50%")),
        *("int4g16+1:2", "int4g64+30%", "int4g64+95%", "int8s+3:8", "int4g64d+2:4"),
        *("nf4g64+2:4", "fp8+2:4", "mxfp4+2:4", "bfp8+4:8", "bitmod4g64+2:4", "sign+3:4"),
        *("nf4g16+50%", "fp6+50%", "nvfp4+50%", "bfp3g128+50%", "bitmod3g16+50%"),
    ],
)
@pytest.mark.parametrize("tokens", [1, 16, 17, 200])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_on_a_device(name, tokens, dtype):
    check_on_device(name, tokens, dtype)
