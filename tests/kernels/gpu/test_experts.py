"""Products with experts in one launch: each token's is that with the weight of its expert."""

from itertools import groupby

import pytest
import torch

from bitplan.kernels import arranged_for, grouped_of_several
from bitplan.kernels.gpu import launch_experts
from bitplan.kernels.gpu.grids import all_beside
from bitplan.kernels.gpu.launch_experts import Stack, experts_blocks, most_blocks, multiply_experts
from bitplan.kernels.gpu.shapes import Device
from bitplan.schema import Scheme
from interpreted import FEW, MANY, check_product, error, interpret
from interpreted_experts import experts_case, experts_of, stacks_of

VIEWS = ("whole", "transposed")
# Schemes of experts one by one: those of one are a stack.
FOUR = "int4g64 int8s int4g64 nf4g64"
SEVEN = "int4g64 ternary2g32 int8s nf4g64 int3g32 int4g64 nvfp4 ternaryg32 int3g32"
PLANES = "int4g64 ternary2g32 nf4g64 int4g64"
CASES = [
    *(experts_case("int4g64", 40, 96, counts) for counts in ([3, 0, 5, 1], [0, 9, 0], [0, 0], [2])),
    # More of one expert's than a block has, for few tokens and for many.
    *(experts_case("int3g32", 33, 96, counts, "float16") for counts in ([1, 11, 0, 2, 1], [40, 3])),
    *(experts_case("int4g64", 40, 96, [2, 3], "float32", view) for view in VIEWS),
    experts_case("int8s", 40, 96, [2, 20], "float32"),
    experts_case("nf4g64", 40, 96, [2, 3], "float32"),
    # Grids of single numbers and of words, steps, choices, a matrix's scale, and two planes.
    *(experts_case(name, 40, 96, [2, 0, 3]) for name in ("int4g32s", "int4g16d", "int5g32sd")),
    experts_case("int4g16d", 8, 4128, [1, 0, 1]),
    *(experts_case(name, 33, 96, [2, 3]) for name in ("nvfp4", "mxfp4", "bitmod4g16", "fp6g32")),
    *(experts_case(name, 33, 96, [2, 3]) for name in ("ternaryg32", "binary2g32d", "ternary2g64")),
    # Columns that two programs share.
    experts_case("int4g64", 40, 1056, [1, 2]),
    experts_case("int4g64", 40, 96, [2, 3], cuda=False),
]
CASES += [
    # Experts and whole stacks without tokens.
    *(experts_case(FOUR, 40, 96, counts) for counts in ([2, 1, 0, 3], [0, 4, 0, 11], [0, 0, 0, 1])),
    experts_case(SEVEN, 33, 96, [2, 1, 3, 0, 1, 9, 1, 2, 4]),
    experts_case(SEVEN, 33, 96, [0, 0, 0, 0, 2, 0, 0, 0, 0]),
    experts_case(SEVEN, 33, 96, [1, 2, 0, 1, 1, 0, 3, 1, 1], "float16"),
    *(experts_case(SEVEN, 33, 96, [1, 1, 0, 2, 1, 0, 1, 1, 2], "float32", of) for of in VIEWS),
    experts_case(FOUR, 40, 96, [2, 1, 0, 3], "float16", "transposed"),
    # More than one block of an expert's, for few tokens, for many, and where a share has few.
    experts_case(FOUR, 33, 96, [17, 2, 9, 0]),
    experts_case(PLANES, 33, 96, [40, 20, 3, 21], "float16"),
    experts_case("int8s int8s int4g64 int8s", 33, 96, [1, 2, 40, 0]),
    # Columns that programs share, more of them for one scheme than for another: the ternary stack
    # has one sum where the other has two; then three, four and two.
    experts_case("int4g64 ternaryg32 int4g64", 40, 1184, [1, 2, 0]),
    experts_case("int4g64 ternary2g32 ternaryg32", 8, 1600, [1, 2, 1]),
    # One stack with all experts, and each expert a stack.
    experts_case("int4g64 int4g64 int4g64", 40, 96, [2, 0, 3]),
    experts_case("int5g32sd bitmod4g16 binary2g32d", 40, 96, [2, 1, 3]),
    *(experts_case(names, 40, 96, [2, 1, 0, 3], cuda=False) for names in (FOUR, PLANES)),
]


@pytest.fixture(scope="module")
def results():
    return interpret(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str([*c.values()]) for c in CASES])
def test_the_product_is_the_references_expert_by_expert(results, number):
    case = CASES[number]
    tokens = [-(-(sum(case["counts"]) + 2) // len(case["counts"]))]
    check_product({**case, "tokens": tokens}, results[number])


@pytest.mark.parametrize("block", [1, 8, 128])
@pytest.mark.parametrize("counts", [[0, 0, 9], [1] * 40, [8, 9, 7], [300, 1, 1, 0], [1]])
def test_there_are_programs_for_every_block(counts, block):
    blocks = sum(-(-count // block) for count in counts)
    assert blocks <= most_blocks(sum(counts), len(counts), block) <= blocks + len(counts)


def test_experts_share_the_device():
    scheme, device = Scheme.parse("int4g64"), Device(multiprocessors=132)
    one = experts_blocks(scheme, 1024, 4096, 1, 64, device)
    eight = experts_blocks(scheme, 1024, 4096, 8, 64, device)
    assert (one.tokens, eight.tokens) == (8, 8)
    assert one.splits > eight.splits
    assert experts_blocks(scheme, 1024, 4096, 64 * 200, 64, device).many


def launched(monkeypatch, names: str, tokens: int, dtype: torch.dtype) -> tuple[list, list[int]]:
    """(stack, blocks) of each launch, and of how many sums an output is; tensors have no values."""
    launches, sums = [], []
    monkeypatch.setattr(launch_experts, "_launch", lambda *of: launches.append((of[2], of[-1])))
    monkeypatch.setattr(launch_experts, "add_up", lambda *of: sums.append(of[-1]))
    weights, of_stacks = stacks_of(names, 40, 96)
    stacks = [
        Stack(
            codes=held["codes"].to("meta"),
            grid=held["grid"].to("meta"),
            beside=[held[name].to("meta") for name in all_beside(scheme)],
            scheme=scheme,
            members=members.to("meta"),
        )
        for members, held, scheme in zip(*of_stacks, strict=True)
    ]
    inputs = torch.empty(tokens, 96, dtype=dtype, device="meta")
    multiply_experts(inputs, torch.empty(len(weights), dtype=torch.int32, device="meta"), stacks)
    numbers = {id(stack.members): number for number, stack in enumerate(stacks)}
    return [(numbers[id(members)], blocks) for members, blocks in launches], sums


# Of int4g64, int8s, nf4g64 and ternary2g32: planes, times parts of a table, times those of inputs.
@pytest.mark.parametrize(
    ("dtype", "counts", "summed"),
    [(torch.bfloat16, [1, 1, 1, 2], 2), (torch.float32, [3, 3, 9, 6], 9)],
)
def test_stacks_are_launched_without_a_look_at_any_value(monkeypatch, dtype, counts, summed):
    launches, sums = launched(monkeypatch, f"{FOUR} {PLANES}", 5, dtype)
    # Those that are summed come first.
    order = sorted(range(4), key=lambda stack: counts[stack] == 1)
    found = [(stack, len([*of])) for stack, of in groupby(number for number, _ in launches)]
    assert found == [(stack, counts[stack]) for stack in order]
    assert sums == [summed]


@pytest.mark.parametrize(("tokens", "many"), [(80, False), (85, True)])
def test_a_stack_is_cut_for_its_share_of_the_tokens(monkeypatch, tokens, many):
    names = "int4g64 int8s int8s int8s int8s"
    launches, _ = launched(monkeypatch, names, tokens, torch.bfloat16)
    assert [blocks.many for _, blocks in launches] == [many, many]


def check_experts(weights, inputs, output, counts, dtype):
    limit = (FEW if max(counts) <= 16 else MANY)[dtype]
    for weight, of, found in zip(weights, inputs.split(counts), output.split(counts), strict=True):
        assert not len(of) or error(found, of, weight) < limit


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int3g64", "int4g64", "nf4g64", "nvfp4", "ternaryg64"])
@pytest.mark.parametrize("counts", [[1, 0, 1, 3], [70, 0, 200, 9]])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_on_a_device(name, counts, dtype):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    weights, stack = experts_of(name, 1000, 1632, len(counts))
    inputs = torch.randn(sum(counts), 1632, generator=torch.Generator().manual_seed(1))
    inputs = inputs.to(getattr(torch, dtype))
    ends = torch.tensor(counts).cumsum(0, dtype=torch.int32).cuda()
    held = {key: tensor.cuda() for key, tensor in stack.items()}
    scheme = weights[0].scheme
    output = arranged_for(scheme, "triton").grouped(inputs.cuda(), ends, held, scheme).cpu()
    check_experts(weights, inputs, output, counts, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [[1, 0, 1, 3, 0, 2, 1, 1, 1], [70, 0, 200, 9, 1, 0, 0, 30, 5]])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_with_several_stacks_on_a_device(counts, dtype):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA or ROCm device")
    weights, (members, arranged, schemes) = stacks_of(SEVEN, 1000, 1632)
    inputs = torch.randn(sum(counts), 1632, generator=torch.Generator().manual_seed(1))
    inputs = inputs.to(getattr(torch, dtype))
    ends = torch.tensor(counts).cumsum(0, dtype=torch.int32).cuda()
    held = [{key: tensor.cuda() for key, tensor in stack.items()} for stack in arranged]
    given = ([own.cuda() for own in members], held, schemes)
    output = grouped_of_several(inputs.cuda(), ends, *given).cpu()
    check_experts(weights, inputs, output, counts, dtype)
