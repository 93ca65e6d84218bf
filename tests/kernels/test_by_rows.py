"""Products that read rows as they are packed, beside the weight decoded and multiplied in float64.

Of sparse schemes and of those that look codes up, by each way that the processor has.
"""

import pytest
import torch
from torch import Tensor, nn

from bitplan.compress import render
from bitplan.errors import InputError
from bitplan.formats import Packed
from bitplan.kernels import arranged_for, by_rows, choose, reference_of
from bitplan.kernels.native import expand, job
from bitplan.kernels.native.row_weight import FEW_VECTORS
from bitplan.modules import PackedLinear
from bitplan.packed_weight import PackedWeight
from bitplan.schema import Scheme
from guarded import only_on_linux, said_apart

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4, torch.float64: 1e-6}
WAYS = ["vbmi2", "bmi2", "plain"]
SPARSE = ["int2+1:2", "int3g16+3:4", "int4g64+2:4", "int5g32s+4:8", "int6g64d+1:4", "int7+5:8"]
SPARSE += ["int8g128+7:8", "int4g64+50%", "int3g16s+30%", "int8s+95%", "sign+2:8", "nf4g64d+2:4"]
SPARSE += ["ternaryg32+50%", "fp6+1:8", "fp8g64+1:4", "bfp5g32+4:8", "mxfp4+3:8", "nvfp4+50%"]
BITMOD = ["bitmod4", "bitmod4g16", "bitmod3g64", "bitmod4g64d", "bitmod3g32+2:4", "bitmod4+60%"]
CODEBOOKS = [
    "sign",
    "nf3g16",
    "nf4g64d",
    "fp6g32",
    "fp6e3m2",
    "fp8g16",
    "fp8e5m2",
    "mxfp4",
    "nvfp4",
]
NAMES = SPARSE + BITMOD + CODEBOOKS
SHAPES = [(64, 64), (70, 200), (3, 8), (130, 264)]
UNEVEN = [(65, 33), (1, 79), (16, 161)]
"""Without blocks."""


def shapes(scheme: Scheme) -> list[tuple[int, int]]:
    has_blocks = scheme.sparsity is not None and scheme.sparsity.block is not None
    return SHAPES if has_blocks else SHAPES + UNEVEN


def packed(name: str, rows: int, columns: int) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def arranged(weight: Packed) -> dict[str, Tensor]:
    return by_rows.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    has = WAYS[WAYS.index(expand.instructions()) :]
    if request.param not in has:
        pytest.skip(f"the processor has {', '.join(has)}")
    monkeypatch.setattr(expand, "instructions", lambda: request.param)
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_choose_names(name):
    scheme = Scheme.parse(name)
    found, _ = choose(scheme, (64, 64))
    assert found == "cpu"
    assert arranged_for(scheme, found).linear is by_rows.linear


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_product_is_the_references(name, dtype, way):
    scheme = Scheme.parse(name)
    for rows, columns in shapes(scheme):
        weight = packed(name, rows, columns)
        held, dense = arranged(weight), weight.decode().double()
        for tokens in ((), (1,), (3,), (2, FEW_VECTORS), (0,), (2, 0)):
            inputs = random(*tokens, columns).to(dtype)
            output = by_rows.linear(inputs, held, scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            expected = inputs.double() @ dense.t()
            # By itself a row may have a sum of products that nearly cancel out.
            terms = inputs.double().square() @ dense.square().t()
            if output.numel() and terms.max() > 0:
                size = max(expected.square().mean(), terms.mean()).sqrt()
                error = (output.double() - expected).square().mean().sqrt() / size
                assert error < TOLERANCE[dtype], (rows, columns, tokens)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_the_reference_and_tensors_the_canonical_ones(name, way):
    scheme = Scheme.parse(name)
    for rows, columns in shapes(scheme):
        weight = packed(name, rows, columns)
        held = arranged(weight)
        restored = by_rows.restore(held, scheme, columns)
        assert restored.keys() == weight.tensors.keys()
        assert all(torch.equal(restored[key], weight.tensors[key]) for key in restored)
        assert sum(tensor.nbytes for tensor in held.values()) == weight.nbytes
        every = torch.arange(rows, dtype=torch.int32)
        for tokens in (every, every[:0], every[-1], every.view(1, rows, 1)):
            for dtype in (torch.float32, torch.bfloat16):
                found = by_rows.lookup(tokens, held, scheme, columns, dtype)
                expected = reference_of(scheme).lookup(
                    tokens, weight.tensors, scheme, columns, dtype
                )
                assert found.dtype == dtype
                assert torch.equal(found, expected)
        for wrong in (-1, rows):
            with pytest.raises(IndexError, match=f"row {wrong} .* of {rows} rows"):
                by_rows.lookup(torch.tensor([0, wrong]), held, scheme, columns, torch.float32)


@pytest.mark.parametrize("name", ["int4g64+2:4", "nf4g16", "fp8", "bitmod3g32"])
def test_many_vectors_meet_the_weight_that_torch_rounds(name):
    weight = packed(name, 130, 264)
    every = torch.eye(264, dtype=torch.bfloat16)
    found = by_rows.linear(every, arranged(weight), weight.scheme)
    assert torch.equal(found, weight.decode().bfloat16().t())


@pytest.mark.parametrize("name", ["int4g64+2:4", "nf4g16+50%", "bitmod3g32"])
def test_the_way_back_is_the_decoded_weights(name):
    weight = packed(name, 130, 264)
    held, gradient = arranged(weight), random(5, 130)
    found = by_rows.linear_back(gradient, held, weight.scheme, 264)
    expected = gradient.double() @ weight.decode().double()
    assert relative_error(found.double(), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("count", [1, 3, FEW_VECTORS + 1])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_inputs_need_not_be_contiguous(dtype, count):
    weight = packed("int3g32+50%", 48, 90)
    held, inputs = arranged(weight), random(90, count).to(dtype)
    for view in (inputs.t(), inputs.t()[::2], inputs.t()[:, None].expand(-1, 2, -1)):
        output = by_rows.linear(view, held, weight.scheme)
        assert torch.equal(output, by_rows.linear(view.contiguous(), held, weight.scheme))


@pytest.mark.parametrize("count", [1, 7, FEW_VECTORS])
@pytest.mark.parametrize("name", ["int4g64+50%", "bitmod4g64"])
def test_threads_change_nothing(name, count, monkeypatch):
    weight = packed(name, 1040, 520)
    held, inputs = arranged(weight), random(count, 520)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(by_rows.linear(inputs, held, weight.scheme))
        monkeypatch.setattr(job, "openmp", lambda: None)
        found.append(by_rows.linear(inputs, held, weight.scheme))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize("count", [1, 3, FEW_VECTORS + 1])
@pytest.mark.parametrize("name", ["int5g64+2:4", "bitmod4"])
def test_every_output_is_written(name, count, monkeypatch):
    weight = packed(name, 70, 264)
    held, inputs, empty = arranged(weight), random(count, 264), torch.empty

    def spoilt(*args, **keywords):
        made = empty(*args, **keywords)
        return made.fill_(torch.nan if made.is_floating_point() else 0xFF)

    monkeypatch.setattr(torch, "empty", spoilt)
    assert by_rows.linear(inputs, held, weight.scheme).isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_no_number_stays_none_where_a_weight_takes_it(value):
    weight = packed("int4g64+50%", 64, 64)
    inputs = torch.ones(1, 64)
    inputs[0, 3] = value
    found = by_rows.linear(inputs, arranged(weight), weight.scheme)
    takes = weight.decode()[:, 3] != 0
    assert takes.any()
    assert not found[0, takes].isfinite().any()


def test_codes_that_pad_a_row_are_not_multiplied():
    # 90 columns keep 45: the last 3 codes of each row, which belong to none, are NaN here.
    weight = packed("fp8+50%", 70, 90)
    weight.tensors["codes"][:, 45:] = 0x7F
    inputs = random(3, 90)
    found = by_rows.linear(inputs, arranged(weight), weight.scheme)
    torch.testing.assert_close(found, inputs @ weight.decode().t())


@pytest.mark.parametrize("name", ["int4g16+2:4", "bitmod3g16"])
def test_layers_with_a_bias_and_experts(name):
    scheme = Scheme.parse(name)
    weight, bias = packed(name, 24, 64), nn.Parameter(random(24))
    held = PackedWeight(weight, compute_dtype=torch.float32)
    held.arrange()
    assert held.implementation == "cpu"
    inputs = random(3, 64).requires_grad_()
    output = PackedLinear(held, bias)(inputs)
    torch.testing.assert_close(output, inputs @ weight.decode().t() + bias)
    [gradient] = torch.autograd.grad(output.sum(), inputs)
    torch.testing.assert_close(gradient, weight.decode().sum(0).expand(3, -1))
    experts = render(random(3, 24, 64), [scheme], quantizer="rtn")[scheme]
    held = PackedWeight(experts, compute_dtype=torch.float32)
    held.arrange()
    assert held.implementation == "cpu"
    with torch.no_grad():
        output = held.multiply(inputs, 2)
    torch.testing.assert_close(output, inputs.detach() @ experts.decode()[2].t())


def test_inputs_elsewhere_are_refused():
    weight = packed("int4g64+2:4", 64, 64)
    with pytest.raises(InputError, match="inputs are on meta, but the weight is on the CPU"):
        by_rows.linear(torch.zeros(1, 64, device="meta"), arranged(weight), weight.scheme)


GUARDED = """
import itertools, torch
from guarded import guarded
from bitplan.compress import render
from bitplan.kernels import by_rows
from bitplan.kernels.native import expand
from bitplan.schema import Scheme

tried = 0
names = ("int3g16+50%", "int4g64+2:4", "int8+3:8", "ternary+50%", "bitmod4g16", "fp8+95%")
for name, rows, columns in itertools.product(names, (1, 15, 65), (8, 24, 72, 264)):
    scheme = Scheme.parse(name)
    packed = render(torch.randn(rows, columns), [scheme], quantizer="rtn")[scheme]
    held = by_rows.arrange(packed.tensors, scheme, columns)
    held = {key: guarded(tensor) for key, tensor in held.items()}
    for dtype, count in itertools.product((torch.float32, torch.bfloat16), (1, 3, 20)):
        inputs = guarded(torch.ones(count, columns, dtype=dtype))
        output = by_rows.linear(inputs, held, scheme)
        expected = inputs.float() @ packed.decode().t()
        # Of a sum that nearly cancels out the error is that of its terms.
        most = (1e-2 if dtype.itemsize == 2 else 1e-5) * packed.decode().abs().sum(1).max()
        assert (output.float() - expected).abs().max() <= most, (name, rows, columns, dtype)
    by_rows.lookup(torch.arange(rows), held, scheme, columns, torch.float32)
    tried += 1
print("tried", tried)
"""


@only_on_linux
def test_nothing_is_read_past_the_end():
    assert said_apart(GUARDED) == "tried 72"
