"""Compiled products with integer codes, beside the weight decoded and multiplied in float64.

By both kinds of loops, each with the shapes and groups that it takes.
"""

import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.errors import InputError
from bitplan.formats import Packed, pack
from bitplan.kernels.integer import cpu, reference
from bitplan.kernels.native import arrange, dot, job
from bitplan.kernels.native import weight as native
from bitplan.schema import Scheme
from guarded import only_on_linux, said_apart

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float64: 1e-6,
}
WIDTHS = [f"int{bits}" for bits in (2, 3, 4, 5, 6, 7, 8)]
GRIDS = ["", "s", "g16", "g32s", "g64", "g128", "g64s", "g16d", "g32d", "g64sd"]
SHAPES = [(64, 64), (130, 96), (48, 200), (70, 33), (129, 7), (192, 131), (16, 32), (208, 224)]
SHAPES += [(66, 31), (130, 84)]
TOKENS = [(), (1,), (3,), (2, 5), (33,), (0,), (2, 0)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


@pytest.fixture(params=["loops", "dot"])
def kernel(request) -> ModuleType:
    if request.param == "dot" and dot.instructions() is None:
        pytest.skip("the processor has no products of bytes")
    return cpu.DOT if request.param == "dot" else cpu.LOOPS


def shapes(kernel: ModuleType, name: str) -> Iterator[tuple[int, int]]:
    """Those of `SHAPES` that a kernel takes in a scheme."""
    for shape in SHAPES:
        if kernel is cpu.LOOPS or cpu.unfit(Scheme.parse(name), *shape) is None:
            yield shape


def arranged(weight: Packed, kernel: cpu.Loops = cpu.LOOPS) -> dict[str, Tensor]:
    return kernel.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_the_references(width, grid, dtype, kernel):
    for rows, columns in shapes(kernel, width + grid):
        weight = packed(width + grid, rows, columns)
        held = arranged(weight, kernel)
        for tokens in TOKENS:
            inputs = random(*tokens, columns).to(dtype)
            output = kernel.linear(inputs, held, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                error = relative_error(output.double(), product(inputs, weight))
                assert error < TOLERANCE[dtype], (rows, columns, tokens)


@pytest.mark.parametrize("rows", [5, 144])
@pytest.mark.parametrize("name", ["int4g16d", "int3g32d", "int3g32sd"])
def test_rows_whose_scales_have_several_steps(name, rows, kernel):
    columns = 2 * 256 * Scheme.parse(name).group_size + 96
    if kernel is cpu.DOT and cpu.unfit(Scheme.parse(name), rows, columns):
        pytest.skip("products of bytes take no such weight")
    sizes = torch.linspace(0.1, 2, columns)
    weight = render(random(rows, columns) * sizes, [Scheme.parse(name)], quantizer="rtn")
    weight = weight[Scheme.parse(name)]
    steps = weight.tensors["scale_step"]
    assert steps.shape == (rows, 3)
    assert (steps[:, 0] < steps[:, 1]).all()
    inputs = random(2, columns)
    found = kernel.linear(inputs, arranged(weight, kernel), weight.scheme)
    error = relative_error(found.double(), product(inputs, weight))
    assert error < TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", ["int3g64", "int8s", "int5g16d", "int5g32d"])
def test_restoring_gives_the_canonical_tensors_exactly(name, kernel):
    scheme = Scheme.parse(name)
    for rows, columns in shapes(kernel, name):
        weight = packed(name, rows, columns)
        before = {key: tensor.clone() for key, tensor in weight.tensors.items()}
        held = arranged(weight, kernel)
        assert sum(tensor.nbytes for tensor in held.values()) == weight.nbytes
        assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) == weight.nbytes
        restored = kernel.restore(held, scheme, columns)
        assert restored.keys() == before.keys()
        for key, tensor in before.items():
            assert restored[key].dtype == tensor.dtype
            assert restored[key].is_contiguous()
            assert torch.equal(restored[key], tensor)
            assert torch.equal(weight.tensors[key], tensor)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_is_restored(bits):
    generator = torch.Generator().manual_seed(bits)
    for rows, columns in SHAPES:
        codes = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
        canonical = pack(codes, bits)
        for flip, quads in ((0, False), (2 ** (bits - 1), False), (0, True)):
            moved = arrange.arrange_codes(canonical, bits, flip, quads=quads)
            assert moved.nbytes == canonical.nbytes
            restored = arrange.restore_codes(moved, rows, columns, bits, flip, quads=quads)
            assert torch.equal(restored, canonical)


@pytest.mark.parametrize("name", ["int2g32", "int3", "int4g128s", "int8s", "int6g64d", "int7"])
def test_rows_are_those_of_the_reference(name, kernel):
    for rows, columns in shapes(kernel, name):
        weight = packed(name, rows, columns)
        held = arranged(weight, kernel)
        for tokens in ([[0, rows - 1, 5], [5, 5, 1]], [], 6, [[]]):
            numbers = torch.tensor(tokens, dtype=torch.int64)
            for dtype in (torch.float32, torch.bfloat16):
                found = kernel.lookup(numbers, held, weight.scheme, columns, dtype)
                expected = reference.lookup(numbers, weight.tensors, weight.scheme, columns, dtype)
                assert found.shape == expected.shape
                assert torch.equal(found, expected)
        for wrong in (-1, rows):
            with pytest.raises(IndexError, match=f"row {wrong} .* of {rows} rows"):
                kernel.lookup(torch.tensor([0, wrong]), held, weight.scheme, columns, torch.float32)


def test_int32_tokens_are_looked_up_too():
    weight = packed("int4g64", 64, 64)
    tokens = torch.tensor([3, 1], dtype=torch.int32)
    found = cpu.LOOPS.lookup(tokens, arranged(weight), weight.scheme, 64, torch.float32)
    assert torch.equal(found, weight.decode()[[3, 1]])


@pytest.mark.parametrize("count", [2, 20], ids=["few", "many"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_inputs_need_not_be_contiguous(dtype, count, kernel):
    weight = packed("int3g32", 48, 96)
    held = arranged(weight, kernel)
    inputs = random(96, count).to(dtype)
    for view in (inputs.t(), inputs.t()[::2], inputs.t()[:, None].expand(-1, 4, -1)):
        output = kernel.linear(view, held, weight.scheme)
        assert torch.equal(output, kernel.linear(view.contiguous(), held, weight.scheme))


@pytest.mark.parametrize("size", [1e-7, 1e-3, 1e3])
@pytest.mark.parametrize("name", ["int4g32", "int8s"])
def test_scales_that_float16_cannot_hold(name, size, kernel):
    weight = packed(name, 48, 96, size)
    inputs = (random(5, 96) / size).half().clamp(-(2.0**15), 2.0**15)
    output = kernel.linear(inputs, arranged(weight, kernel), weight.scheme)
    assert relative_error(output.double(), product(inputs, weight)) < 1e-3


@pytest.mark.parametrize("count", [1, 40])
def test_every_output_is_written(count, kernel, monkeypatch):
    weight = packed("int5g64", 144, 96)
    held, inputs = arranged(weight, kernel), random(count, 96)
    empty = torch.empty

    def spoilt(*args, **keywords):
        made = empty(*args, **keywords)
        return made.fill_(torch.nan if made.is_floating_point() else 0xFF)

    monkeypatch.setattr(torch, "empty", spoilt)
    assert kernel.linear(inputs, held, weight.scheme).isfinite().all()
    every = torch.arange(144)
    assert kernel.lookup(every, held, weight.scheme, 96, torch.float32).isfinite().all()


@pytest.mark.parametrize("count", [1, 16, 35])
def test_threads_change_nothing(count, kernel, monkeypatch):
    monkeypatch.setattr(native, "has_bfloat16", lambda: False)
    weight = packed("int3g64", 1040, 512)
    held, inputs = arranged(weight, kernel), random(count, 512)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(kernel.linear(inputs, held, weight.scheme))
    finally:
        torch.set_num_threads(before)
    # torch's matmul of many may round in another order.
    exact = count <= native.FEW or (kernel is cpu.DOT and dot.instructions() == "vnni")
    for other in found[1:]:
        assert torch.equal(other, found[0]) if exact else torch.allclose(other, found[0], atol=1e-5)


def test_workers_of_python_do_the_same(monkeypatch):
    """Where there is no OpenMP runtime to share."""
    weight = packed("int3g64", 1040, 520)
    held, inputs = arranged(weight), random(1, 520)
    expected = cpu.LOOPS.linear(inputs, held, weight.scheme)
    monkeypatch.setattr(job, "openmp", lambda: None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(cpu.LOOPS.linear(inputs, held, weight.scheme), expected)
    finally:
        torch.set_num_threads(before)


def test_two_threads_may_share_a_weight():
    weight = packed("int3g64", 1040, 520)
    held = arranged(weight)
    inputs = [random(count, 520) + count for count in (1, 2, 20, 30)]
    expected = [cpu.LOOPS.linear(x, held, weight.scheme) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            output = cpu.LOOPS.linear(inputs[number], held, weight.scheme)
            if not torch.allclose(output, expected[number], rtol=1e-5, atol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_number_stays_none(value, dtype, kernel):
    weight = packed("int4g64", 64, 64)
    inputs = torch.ones(1, 64, dtype=dtype)
    inputs[0, 3] = value
    assert not kernel.linear(inputs, arranged(weight, kernel), weight.scheme).isfinite().any()


GUARDED = """
import itertools, torch
from guarded import guarded
from bitplan.kernels.integer import cpu
from bitplan.formats import Packed
from bitplan.schema import Scheme

tried = 0
cases = [
    *itertools.product(
        (cpu.LOOPS,), ("int3g16", "int4g64", "int8s"), (1, 15, 64, 65), (1, 8, 31, 32, 33, 40, 72)
    ),
    *itertools.product((cpu.DOT,), ("int3g32", "int4g64", "int8s"), (16, 64, 80), (32, 64, 96)),
]
for kernel, name, rows, columns in cases:
    scheme = Scheme.parse(name)
    if kernel is cpu.DOT and cpu.unfit(scheme, rows, columns):
        kernel = cpu.LOOPS
    groups = -(-columns // (scheme.group_size or columns))
    scale = torch.ones(rows, groups)
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    packed = Packed.encode(scheme, codes, scale, scale)
    canonical = {key: guarded(tensor) for key, tensor in packed.tensors.items()}
    arranged = kernel.arrange(canonical, scheme, columns)
    arranged = {key: guarded(tensor) for key, tensor in arranged.items()}
    for dtype, count in itertools.product((torch.float32, torch.bfloat16), (1, 20)):
        inputs = guarded(torch.ones(count, columns, dtype=dtype))
        output = kernel.linear(inputs, arranged, scheme)
        expected = (inputs.float() @ packed.decode().t()).to(dtype)
        assert torch.allclose(output, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-5)
    kernel.lookup(torch.arange(rows), arranged, scheme, columns, torch.float32)
    kernel.restore(arranged, scheme, columns)
    tried += 1
print("tried", tried)
"""


@only_on_linux
def test_nothing_is_read_past_the_end():
    assert said_apart(GUARDED) == "tried 111"


def test_inputs_elsewhere_are_refused(kernel):
    weight = packed("int4g64", 64, 64)
    held = arranged(weight, kernel)
    with pytest.raises(InputError, match="inputs are on meta, but the weight is on the CPU"):
        kernel.linear(torch.zeros(1, 64, device="meta"), held, weight.scheme)
    tokens = torch.zeros(1, dtype=torch.int64, device="meta")
    with pytest.raises(InputError, match="on meta"):
        kernel.lookup(tokens, held, weight.scheme, 64, torch.float32)
