"""Products with several weights in one launch: each is what the weight's own would be."""

import pytest
import torch

from bitplan.kernels import one_launch
from bitplan.kernels.gpu.operator import linears
from bitplan.kernels.gpu.shapes import Device
from bitplan.schema import Scheme
from interpreted import FEW, check_product, error, interpret
from interpreted_several import arranged_of, several_case

THREE = [("int4g64", 40), ("int4g64", 24), ("int4g64", 33)]
MIXED = [("int4g64", 40), ("int3g32s", 24), ("nf4g32", 33)]
PLANES = [("ternary2g64", 40), ("int5g32sd", 24), ("binary2g32d", 33)]
FLOATS = [("nvfp4", 65), ("mxfp4", 40), ("nvfp4", 8), ("bitmod4g16", 33), ("fp6g32", 1)]
CASES = [
    *(several_case(weights, 96, [3]) for weights in (THREE, MIXED, PLANES, FLOATS)),
    *(several_case(weights, 96, [16], "float16") for weights in (MIXED, PLANES, FLOATS)),
    several_case(MIXED, 96, [2, 1, 4]),
    # One constant, but what one writes is an output, and what the other's planes write is summed.
    several_case([("ternaryg32", 40), ("ternary2g32", 24)], 96, [3]),
    # Columns that programs share, and that are no whole panels of both kinds.
    several_case([("int4g64", 130), ("ternaryg32", 63)], 2144, [2]),
    several_case([("int4g64", 130), ("nf4g64", 65), ("int4g64", 64)], 2144, [9]),
    *(several_case(weights, 96, [3], cuda=False) for weights in (MIXED, PLANES)),
    *(several_case(MIXED, 96, [5], "float16", view) for view in ("strided", "transposed")),
]
# What is not one launch: three numbers for each input, many tokens, kept weights, and nothing.
APART = [
    several_case(MIXED, 96, [3], "float32"),
    several_case(MIXED, 96, [17]),
    several_case([("int4g64", 40), ("int4g64+2:4", 24)], 128, [3]),
    several_case([("ternaryg16", 40), ("int4g64", 24)], 96, [12]),
]
NONE = [several_case(MIXED, 96, [0]), several_case([("int4g64", 40)], 96, [2])]


def named(cases: list[dict]) -> dict:
    return {"argvalues": range(len(cases)), "ids": [str([*case.values()]) for case in cases]}


@pytest.fixture(scope="module")
def results():
    return interpret([*CASES, *APART, *NONE])


def check(case: dict, found: dict) -> None:
    check_product({**case, "tokens": case["several"]}, {**found, "same": True})
    assert found["apart"] == len(case["weights"])


@pytest.mark.parametrize("number", **named(CASES))
def test_products_of_one_launch_are_the_references(results, number):
    case, found = CASES[number], results[number]
    check(case, found)
    has_planes = any("2" in name.split("g")[0] for name, _ in case["weights"])
    is_summed = case["columns"] > 1000 or has_planes
    assert (found["launches"], found["sums"], found["single"]) == (1, is_summed, 0)


@pytest.mark.parametrize("number", **named(APART))
def test_what_does_not_fit_together_runs_one_by_one(results, number):
    case, found = APART[number], results[len(CASES) + number]
    check(case, found)
    assert found["launches"] == found["sums"] == 0
    assert found["single"] >= len(case["weights"])


def test_nothing_is_launched_for_no_tokens_and_one_weight_is_no_several(results):
    none, one = results[-2:]
    assert none["launches"] == none["single"] == 0
    assert (one["launches"], one["single"]) == (0, 1)


@pytest.mark.parametrize(
    ("names", "tokens", "reason"),
    [
        (["int4g64"], 1, "2 to 8 weights"),
        (["int4g64"] * 9, 1, "2 to 8 weights"),
        (["int4g64"] * 3, 17, "1 to 16 tokens"),
        (["int4g64"] * 3, 0, "1 to 16 tokens"),
        (["int4g64", "int4g64+2:4"], 1, "left out"),
        (["int4g64", "int3g64+2%int8"], 1, "no packed matrix"),
        (["int4g64", "bf16"], 1, "no packed matrix"),
        (["int4g64", "ternaryg16"], 12, "more tokens at once"),
        (["int4g64", "ternaryg16"], 8, None),
        (["int4g64", "nf4g16d"], 1, None),
        (["int4g64", "nf4g64", "ternary2g64"], 16, None),
    ],
)
def test_which_weights_are_one_launch_and_why(names, tokens, reason):
    weights = tuple((Scheme.parse(name), 1024) for name in names)
    blocks, why = one_launch(weights, 4128, tokens, Device(multiprocessors=132))
    if reason is None:
        assert blocks is not None
        assert len(blocks) == len(weights)
        assert len({(of.splits, of.warps, of.stages, of.registers) for of in blocks}) == 1
        assert "steps" in why
    else:
        assert blocks is None
        assert reason in why


@pytest.mark.parametrize(
    ("weights", "columns", "found"),
    [
        ((("int4g64", 4096), ("int4g64", 1024), ("int4g64", 1024)), 4096, (6, 13)),
        ((("int4g64", 14336), ("int4g64", 14336)), 4096, (26, 34)),
        # A weight that just fills the device, and a few programs more.
        ((("nf4g64", 64), ("ternaryg64", 13824)), 13824, (36, 28)),
    ],
)
def test_one_launch_is_taken_where_a_model_says_that_it_takes_no_more(weights, columns, found):
    weights = tuple((Scheme.parse(name), rows) for name, rows in weights)
    blocks, why = one_launch(weights, columns, 1, Device(multiprocessors=108))
    assert why == f"One launch takes {found[0]} steps, launches for themselves {found[1]}."
    assert (blocks is not None) == (found[0] <= found[1])


def test_torch_knows_the_operator_and_compiles_it_into_one_graph():
    for found in interpret([f"several with {name}" for name in ("int4g64", "binary2g16d")]):
        assert set(found["checked"]) == {"SUCCESS"}
        assert found["same"]


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 16, 40])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    "names",
    [
        ("int4g64", "int4g64", "int4g64"),
        ("int3g64", "nf4g64", "ternary2g64"),
        ("nvfp4", "bitmod4g64"),
    ],
    ids=",".join,
)
def test_the_products_on_a_device(names, dtype, tokens):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    packed, arranged = arranged_of([(name, 1000 - 300 * n) for n, name in enumerate(names)], 1632)
    inputs = torch.randn(tokens, 1632, generator=torch.Generator().manual_seed(1))
    inputs = inputs.to(getattr(torch, dtype))
    held = [{key: tensor.cuda() for key, tensor in one.items()} for one in arranged]
    outputs = linears(inputs.cuda(), held, [one.scheme for one in packed])
    for weight, output in zip(packed, outputs, strict=True):
        limit = FEW[dtype] if tokens <= 16 else 1e-2
        assert error(output.cpu(), inputs, weight) < limit
