"""Products with experts in one launch: each token's is that with the weight of its expert."""

import pytest
import torch

from bitplan.kernels import arranged_for
from bitplan.kernels.gpu.launch_experts import experts_blocks, most_blocks
from bitplan.kernels.gpu.shapes import Device
from bitplan.schema import Scheme
from interpreted import FEW, MANY, check_product, error, interpret
from interpreted_experts import experts_case, experts_of

CASES = [
    *(experts_case("int4g64", 40, 96, counts) for counts in ([3, 0, 5, 1], [0, 9, 0], [0, 0], [2])),
    # More of one expert's than a block has, for few tokens and for many.
    *(experts_case("int3g32", 33, 96, counts, "float16") for counts in ([1, 11, 0, 2, 1], [40, 3])),
    *(experts_case("int4g64", 40, 96, [2, 3], "float32", view) for view in ("whole", "transposed")),
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
    limit = (FEW if max(counts) <= 16 else MANY)[dtype]
    for weight, of, found in zip(weights, inputs.split(counts), output.split(counts), strict=True):
        assert not len(of) or error(found, of, weight) < limit
