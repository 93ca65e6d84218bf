import ml_dtypes
import numpy as np
import pytest
import torch

from bitplan.footprint import scheme_bytes
from bitplan.formats import MATRIX_SCALE, Packed, double
from bitplan.formats.codebook import codebook_of
from bitplan.formats.decode import decode
from bitplan.formats.two_planes import VALUES
from bitplan.schema import FLOAT_BITS, Scheme, scheme_names

ALL = scheme_names()
SHAPES = [(1, 1), (3, 7), (2, 31), (2, 65), (4, 128), (1, 300), (2, 3, 33), (3, 1, 130)]
SCALES = {"bf16": None, "e8m0": ml_dtypes.float8_e8m0fnu, "e4m3": ml_dtypes.float8_e4m3fn}


def some(name: str, shape: tuple[int, ...]) -> Packed:
    """Random codes on random grids."""
    scheme = Scheme.parse(name)
    generator = torch.Generator().manual_seed(len(name))
    if scheme.is_float:
        return Packed.cast(scheme, torch.randn(shape, generator=generator))
    groups = -(-shape[-1] // (scheme.group_size or shape[-1]))
    if scheme.is_integer or scheme.format in VALUES:
        known = 2 ** int(scheme.bits) if scheme.is_integer else len(VALUES[scheme.format]) ** 2
        codes = torch.randint(0, known, shape, generator=generator, dtype=torch.uint8)
    else:
        known = codebook_of(scheme).table.isfinite().nonzero().flatten().to(torch.uint8)
        codes = known[torch.randint(0, len(known), shape, generator=generator)]
    scale = torch.rand(*shape[:-1], groups, generator=generator) * 0.1
    offset = torch.randn(*shape[:-1], groups, generator=generator)
    steps = None
    if scheme.double:
        # Numbers of bytes and steps, so that storing them loses nothing.
        blocks = -(-groups // double.SHARED)
        steps = {
            name: (torch.rand(*shape[:-1], blocks, generator=generator) * 0.01).bfloat16().float()
            for name in ("scale", "second" if scheme.format in VALUES else "offset")
        }
        scale, offset = (
            torch.randint(1, 128, scale.shape, generator=generator) * double.spread(step, groups)
            for step in steps.values()
        )
        offset = -offset
    matrix_scale = torch.rand(*shape[:-2], 1, 1, generator=generator) * 2.0**-10
    return Packed.encode(
        scheme,
        codes,
        scale,
        None if scheme.symmetric else offset,
        matrix_scale if scheme.format == "nvfp4" else None,
        steps,
        torch.randint(0, 4, (*shape[:-1], groups), generator=generator, dtype=torch.uint8)
        if scheme.family.choices > 1
        else None,
        second=offset if scheme.format in VALUES else None,
    )


def codes_of(data: np.ndarray, columns: int, scheme: Scheme) -> list[int]:
    """Codes from bits, or digits, read one by one."""
    if scheme.format in VALUES:
        plain = Scheme.parse("ternary" if scheme.format == "ternary2" else "sign")
        first, second = (codes_of(plane, columns, plain) for plane in np.split(data, 2))
        base = len(VALUES[scheme.format])
        return [one + base * other for one, other in zip(first, second, strict=True)]
    if scheme.format == "ternary":
        return [int(data[i // 5]) // 3 ** (i % 5) % 3 for i in range(columns)]
    stream = np.unpackbits(data, bitorder="little")
    cut = [stream[i * scheme.bits : (i + 1) * scheme.bits] for i in range(columns)]
    return [sum(int(bit) << k for k, bit in enumerate(bits)) for bits in cut]


def numbers_of(packed: Packed, name: str) -> np.ndarray:
    """Scales or offsets."""
    kind = SCALES[packed.scheme.family.scale]
    scale = packed.tensors[name]
    if packed.scheme.double:
        steps = packed.tensors[f"{name}_step"].float().numpy()
        steps = steps[..., np.arange(scale.shape[-1]) // 256]
        return (scale.numpy().astype(np.float32) - (0 if name == "scale" else 128)) * steps
    if kind is None:
        return scale.float().numpy()
    values = scale.numpy().view(kind).astype(np.float32)
    return (
        values * packed.tensors[MATRIX_SCALE].numpy() if MATRIX_SCALE in packed.tensors else values
    )


def choice_of(packed: Packed, row: tuple[int, ...], group: int) -> int:
    if "choice" not in packed.tensors:
        return 0
    return int(packed.tensors["choice"][row][group // 4]) >> 2 * (group % 4) & 3


def decoded_by_loops(packed: Packed) -> np.ndarray:
    """The docstring's formula, weight by weight."""
    scheme = packed.scheme
    *rows, columns = packed.shape
    scales = numbers_of(packed, "scale")
    offsets = None if scheme.symmetric else numbers_of(packed, "offset")
    seconds = numbers_of(packed, "second") if scheme.format in VALUES else None
    weight = np.empty(packed.shape, dtype=np.float32)
    for row in np.ndindex(*rows):
        for i, code in enumerate(codes_of(packed.tensors["codes"][row].numpy(), columns, scheme)):
            j = i // scheme.group_size if scheme.group_size else 0
            other = np.float32(0)
            if scheme.is_integer:
                value = np.float32(code - 2 ** (scheme.bits - 1))
            elif seconds is not None:
                values = VALUES[scheme.format]
                other, value = (np.float32(values[d]) for d in divmod(code, len(values)))
            else:
                value = codebook_of(scheme, choice_of(packed, row, j)).table.numpy()[code]
            value = value * scales[row][j]
            if offsets is not None:
                value = value + offsets[row][j]
            if seconds is not None:
                value = value + other * seconds[row][j]
            weight[(*row, i)] = value
    return weight


@pytest.mark.parametrize("name", [name for name in ALL if name not in FLOAT_BITS])
def test_decode_is_the_formula(name):
    for shape in [(3, 7), (1, 130), (2, 2, 33)]:
        packed = some(name, shape)
        assert np.array_equal(packed.decode().numpy(), decoded_by_loops(packed)), shape


@pytest.mark.parametrize("name", ALL)
def test_bytes_are_those_of_the_byte_model(name):
    for shape in SHAPES:
        packed = some(name, shape)
        assert packed.nbytes == scheme_bytes(shape, packed.scheme), shape
        assert all(tensor.is_contiguous() for tensor in packed.tensors.values())


@pytest.mark.parametrize("name", ALL)
def test_rows_decode_to_the_rows_of_the_whole(name):
    for shape in SHAPES:
        packed, count = some(name, shape), shape[-2]
        for rows in (slice(0, 1), slice(1, count), slice(count // 2, None), slice(0, count + 5)):
            part = packed.rows(rows)
            whole = packed.decode()[..., rows, :]
            if whole.numel():
                assert torch.equal(part.decode(), whole), (shape, rows)
            assert part.shape == tuple(whole.shape)
            assert part.scheme == packed.scheme
            for key, tensor in part.tensors.items():  # a view: nothing is copied
                owner = packed.tensors[key].untyped_storage()
                assert tensor.untyped_storage().data_ptr() == owner.data_ptr()


@pytest.mark.parametrize("name", ["int4g16d", "nf4g16d", "ternary2g16d"])
def test_many_scales_of_a_row_have_steps_of_their_own(name):
    packed = some(name, (2, 16 * 256 + 5))
    assert packed.tensors["scale_step"].shape == (2, 2)
    assert packed.nbytes == scheme_bytes(packed.shape, packed.scheme)
    assert np.array_equal(packed.decode().numpy(), decoded_by_loops(packed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_decode_rounds_once_to_the_dtype(dtype):
    packed = some("int5g32", (3, 70))
    assert torch.equal(packed.decode(dtype), packed.decode().to(dtype))
    assert packed.decode(dtype).dtype == dtype


@pytest.mark.parametrize("name", FLOAT_BITS)
def test_a_float_scheme_keeps_a_copy(name):
    weight = torch.randn(4, 6).t()
    packed = Packed.cast(Scheme.parse(name), weight)
    expected = weight.to(packed.tensors["weight"].dtype, copy=True)
    weight.zero_()
    assert torch.equal(packed.tensors["weight"], expected)
    assert packed.shape == (6, 4)


def test_decode_does_not_change_what_is_stored():
    packed = some("int8g32", (2, 40))
    before = {name: tensor.clone() for name, tensor in packed.tensors.items()}
    packed.decode().zero_()
    assert all(torch.equal(packed.tensors[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "name",
    [
        "int3g32",
        "int4g32s",
        "int2",
        "int8s",
        "sign",
        "ternaryg16",
        "fp8g16",
        "nf4",
        "nvfp4",
        "int4g16d",
        "nf4g16d",
        "ternary2g16",
        "binary2g16d",
    ],
)
def test_gradients_of_scale_and_offset_are_finite_differences(name):
    packed = some(name, (2, 40))
    tuned = {k: t.double() for k, t in packed.tensors.items() if t.is_floating_point()}
    fixed = {k: t for k, t in packed.tensors.items() if not t.is_floating_point()}
    seen = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        tensors = {**fixed, **values}
        return (decode(packed.scheme, 40, tensors, torch.float64) * seen).sum()

    for part in tuned:
        leaves = {k: t.clone().requires_grad_(k == part) for k, t in tuned.items()}
        loss(leaves).backward()
        gradient = leaves[part].grad
        assert gradient is not None
        # The weight is linear in both, so a wide step is exact but for float32's rounding.
        for at in np.ndindex(*gradient.shape):
            step = {k: t.clone() for k, t in tuned.items()}
            step[part][at] += 1.0
            difference = loss(step) - loss(tuned)
            assert gradient[at].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-4)
