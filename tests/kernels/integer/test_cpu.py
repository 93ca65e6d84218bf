"""Compiled products with integer codes, beside the weight decoded and multiplied in float64."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.errors import InputError
from bitplan.formats import Packed, pack
from bitplan.kernels.integer import cpu, reference
from bitplan.kernels.native import arrange, job
from bitplan.kernels.native import weight as native
from bitplan.schema import Scheme

# RMS(error) / RMS(product in float64 with the weight decoded in float32): measured, and doubled.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
    torch.float64: 1e-6,
}
WIDTHS = [f"int{bits}" for bits in (2, 3, 4, 5, 6, 7, 8)]
GRIDS = ["", "s", "g16", "g32s", "g64", "g128", "g64s", "g16d", "g64sd"]
SHAPES = [(64, 64), (130, 96), (48, 200), (70, 33), (129, 7), (192, 131)]
TOKENS = [(), (1,), (3,), (2, 5), (33,), (0,), (2, 0)]


def packed(name: str, rows: int, columns: int, size: float = 0.05) -> Packed:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * size
    return render(weight, [Scheme.parse(name)], quantizer="rtn")[Scheme.parse(name)]


def arranged(weight: Packed) -> dict[str, Tensor]:
    return cpu.arrange(weight.tensors, weight.scheme, weight.shape[-1])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()


def product(inputs: Tensor, weight: Packed) -> Tensor:
    return inputs.double() @ weight.decode().double().t()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_the_references(width, grid, dtype):
    for rows, columns in SHAPES:
        weight = packed(width + grid, rows, columns)
        held = arranged(weight)
        for tokens in TOKENS:
            inputs = random(*tokens, columns).to(dtype)
            output = cpu.linear(inputs, held, weight.scheme)
            assert output.dtype == dtype
            assert output.shape == (*tokens, rows)
            if output.numel():
                error = relative_error(output.double(), product(inputs, weight))
                assert error < TOLERANCE[dtype], (rows, columns, tokens)


@pytest.mark.parametrize("name", ["int3g64", "int8s", "int5g16d"])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_restoring_gives_the_canonical_tensors_exactly(name, rows, columns):
    scheme = Scheme.parse(name)
    weight = packed(name, rows, columns)
    before = {key: tensor.clone() for key, tensor in weight.tensors.items()}
    held = arranged(weight)
    assert sum(tensor.nbytes for tensor in held.values()) == weight.nbytes
    assert sum(tensor.untyped_storage().nbytes() for tensor in held.values()) == weight.nbytes
    restored = cpu.restore(held, scheme, columns)
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
        for flip in (0, 2 ** (bits - 1)):
            moved = arrange.arrange_codes(canonical, bits, flip)
            assert torch.equal(arrange.restore_codes(moved, rows, columns, bits, flip), canonical)


@pytest.mark.parametrize("name", ["int2g32", "int3", "int4g128s", "int8s", "int6g64d"])
def test_rows_are_those_of_the_reference(name):
    for rows, columns in SHAPES:
        weight = packed(name, rows, columns)
        held = arranged(weight)
        for tokens in ([[0, rows - 1, 5], [5, 5, 1]], [], 6, [[]]):
            numbers = torch.tensor(tokens, dtype=torch.int64)
            for dtype in (torch.float32, torch.bfloat16):
                found = cpu.lookup(numbers, held, weight.scheme, columns, dtype)
                expected = reference.lookup(numbers, weight.tensors, weight.scheme, columns, dtype)
                assert found.shape == expected.shape
                assert torch.equal(found, expected)
        for wrong in (-1, rows):
            with pytest.raises(IndexError, match=f"row {wrong} .* of {rows} rows"):
                cpu.lookup(torch.tensor([0, wrong]), held, weight.scheme, columns, torch.float32)


def test_int32_tokens_are_looked_up_too():
    weight = packed("int4g64", 64, 64)
    tokens = torch.tensor([3, 1], dtype=torch.int32)
    found = cpu.lookup(tokens, arranged(weight), weight.scheme, 64, torch.float32)
    assert torch.equal(found, weight.decode()[[3, 1]])


@pytest.mark.parametrize("count", [2, 20], ids=["few", "many"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_inputs_need_not_be_contiguous(dtype, count):
    weight = packed("int3g32", 48, 96)
    held = arranged(weight)
    inputs = random(96, count).to(dtype)
    for view in (inputs.t(), inputs.t()[::2], inputs.t()[:, None].expand(-1, 4, -1)):
        output = cpu.linear(view, held, weight.scheme)
        assert torch.equal(output, cpu.linear(view.contiguous(), held, weight.scheme))


@pytest.mark.parametrize("size", [1e-7, 1e-3, 1e3])
@pytest.mark.parametrize("name", ["int4g32", "int8s"])
def test_scales_that_float16_cannot_hold(name, size):
    weight = packed(name, 48, 96, size)
    inputs = (random(5, 96) / size).half().clamp(-(2.0**15), 2.0**15)
    output = cpu.linear(inputs, arranged(weight), weight.scheme)
    assert relative_error(output.double(), product(inputs, weight)) < 1e-3


@pytest.mark.parametrize("count", [1, 40])
def test_every_output_is_written(count, monkeypatch):
    weight = packed("int5g64", 130, 72)
    held, inputs = arranged(weight), random(count, 72)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    assert cpu.linear(inputs, held, weight.scheme).isfinite().all()
    assert cpu.lookup(torch.arange(130), held, weight.scheme, 72, torch.float32).isfinite().all()


@pytest.mark.parametrize("count", [1, 16, 17])
def test_threads_change_nothing(count):
    weight = packed("int3g64", 1040, 520)
    held, inputs = arranged(weight), random(count, 520)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(cpu.linear(inputs, held, weight.scheme))
    finally:
        torch.set_num_threads(before)
    few = count <= native.FEW  # torch's matmul of many may round in another order
    for other in found[1:]:
        assert torch.equal(other, found[0]) if few else torch.allclose(other, found[0], atol=1e-5)


def test_workers_of_python_do_the_same(monkeypatch):
    """Where there is no OpenMP runtime to share."""
    weight = packed("int3g64", 1040, 520)
    held, inputs = arranged(weight), random(1, 520)
    expected = cpu.linear(inputs, held, weight.scheme)
    monkeypatch.setattr(job, "_openmp", lambda: None)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(cpu.linear(inputs, held, weight.scheme), expected)
    finally:
        torch.set_num_threads(before)


def test_two_threads_may_share_a_weight():
    weight = packed("int3g64", 1040, 520)
    held = arranged(weight)
    inputs = [random(count, 520) + count for count in (1, 2, 20, 30)]
    expected = [cpu.linear(x, held, weight.scheme) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(30):
            output = cpu.linear(inputs[number], held, weight.scheme)
            if not torch.allclose(output, expected[number], rtol=1e-5, atol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_no_number_stays_none(value, dtype):
    weight = packed("int4g64", 64, 64)
    inputs = torch.ones(1, 64, dtype=dtype)
    inputs[0, 3] = value
    assert not cpu.linear(inputs, arranged(weight), weight.scheme).isfinite().any()


# Memory ends where a page begins that may not be read: who reads too far dies.
GUARDED = """
import ctypes, itertools, torch
from bitplan.kernels.integer import cpu
from bitplan.formats import Packed
from bitplan.schema import Scheme

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def guarded(tensor):
    pages = -(-tensor.nbytes // 4096)
    start = libc.mmap(None, (pages + 1) * 4096, 3, 0x22, -1, 0)
    end = start + pages * 4096
    assert libc.mprotect(end, 4096, 0) == 0
    memory = (ctypes.c_uint8 * tensor.nbytes).from_address(end - tensor.nbytes)
    copy = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)

tried = 0
for name, rows, columns in itertools.product(
    ("int3g16", "int4g64", "int8s"), (1, 15, 64, 65), (1, 8, 31, 32, 33, 40, 72)
):
    scheme = Scheme.parse(name)
    groups = -(-columns // (scheme.group_size or columns))
    scale = torch.ones(rows, groups)
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    packed = Packed.encode(scheme, codes, scale, scale)
    canonical = {key: guarded(tensor) for key, tensor in packed.tensors.items()}
    arranged = cpu.arrange(canonical, scheme, columns)
    arranged = {key: guarded(tensor) for key, tensor in arranged.items()}
    for count in (1, 20):
        inputs = guarded(torch.ones(count, columns))
        output = cpu.linear(inputs, arranged, scheme)
        assert torch.allclose(output, inputs @ packed.decode().t())
    cpu.lookup(torch.arange(rows), arranged, scheme, columns, torch.float32)
    cpu.restore(arranged, scheme, columns)
    tried += 1
print("tried", tried)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="maps memory as Linux does")
def test_nothing_is_read_past_the_end():
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "tried 84"


def test_inputs_elsewhere_are_refused():
    weight = packed("int4g64", 64, 64)
    held = arranged(weight)
    with pytest.raises(InputError, match="inputs are on meta, but the weight is on the CPU"):
        cpu.linear(torch.zeros(1, 64, device="meta"), held, weight.scheme)
    tokens = torch.zeros(1, dtype=torch.int64, device="meta")
    with pytest.raises(InputError, match="on meta"):
        cpu.lookup(tokens, held, weight.scheme, 64, torch.float32)
