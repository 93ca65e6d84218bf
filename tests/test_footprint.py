import pytest
import torch

from bitplan.errors import SchemeError
from bitplan.footprint import canonical, default_schemes, legal_schemes, scheme_bytes
from bitplan.schema import FAMILIES, FLOAT_BITS, INT_BITS, Kind, Layer, Scheme, scheme_names


def layer(*shape: int) -> Layer:
    return Layer(name="x", kind=Kind.EXPERTS if len(shape) == 3 else Kind.LINEAR, shape=shape)


@pytest.mark.parametrize(
    ("shape", "name", "expected"),
    [
        ((1, 8), "int3s", 3 + 2),
        ((1, 8), "int3", 3 + 2 + 2),
        ((1, 9), "int3s", 2 * 3 + 2),  # padded to 16 codes
        ((5, 9), "int2g32", 5 * (2 * 2 + 2 + 2)),
        ((2, 65), "int5g64", 2 * (9 * 5 + 2 * 4)),  # two groups, the second of one weight
        ((2, 65), "int5g64s", 2 * (9 * 5 + 2 * 2)),
        ((576, 1536), "int4g64", 576 * (768 + 24 * 4)),
        ((3, 2, 65), "int5g64", 3 * 2 * (9 * 5 + 2 * 4)),
        ((3, 7), "bf16", 42),
        ((3, 7), "fp16", 42),
        ((3, 7), "fp32", 84),
        ((2, 3, 7), "fp32", 168),
        ((3, 17), "sign", 3 * (3 + 2)),
        ((3, 16), "ternary", 3 * (4 + 2)),
        ((3, 17), "ternaryg16", 3 * (4 + 2 * 2)),
        ((3, 17), "ternary2g16", 3 * 2 * (4 + 2 * 2)),
        ((3, 16), "ternary2g16d", 3 * 2 * (4 + 1 + 2)),
        ((2, 65), "binary2g64", 2 * 2 * (9 + 2 * 2)),
        ((2, 64), "nf3g32", 2 * (24 + 2 * 2)),
        ((2, 33), "fp6g32", 2 * (5 * 6 + 2 * 2)),
        ((2, 33), "bfp5g32", 2 * (5 * 5 + 2)),
        ((2, 33), "mxfp4", 2 * (20 + 2)),
        ((2, 8), "mxfp8", 2 * (8 + 1)),
        ((2, 33), "nvfp4", 2 * (20 + 3) + 4),
        ((3, 16), "bitmod3", 3 * (6 + 2 + 2)),
        ((3, 16 * 9), "bitmod4g16", 3 * (72 + 2 * 9 + 2 * 2)),
        ((3, 16 * 9), "bitmod4g16d", 3 * (72 + 9 + 2 + 2 * 2)),
        ((2, 65), "int5g64d", 2 * (9 * 5 + 2 * (2 + 2))),
        ((2, 65), "int5g64sd", 2 * (9 * 5 + 2 + 2)),
        ((3, 16 * 256), "nf4g16d", 3 * (2048 + 256 + 2)),
        ((3, 16 * 257), "nf4g16d", 3 * (2056 + 257 + 4)),
        ((5, 2, 33), "nvfp4", 5 * (2 * (20 + 3) + 4)),
        ((3, 17), "none", 0),
    ],
)
def test_known_sizes(shape, name, expected):
    assert scheme_bytes(shape, Scheme.parse(name)) == expected


@pytest.mark.parametrize("bits", INT_BITS)
def test_codes_take_their_true_width(bits):
    shape = (10, 4096)
    scheme = Scheme.parse(f"int{bits}s")
    assert scheme_bytes(shape, scheme) - 10 * 2 == 10 * 4096 * bits // 8


def test_more_bits_or_smaller_groups_are_never_smaller():
    for shape in [(3, 1), (3, 100), (2, 3, 129)]:
        for tail in ["", "s", "g32", "g64", "g128s"]:
            sizes = [scheme_bytes(shape, Scheme.parse(f"int{b}{tail}")) for b in INT_BITS]
            assert sizes == sorted(sizes)
        by_group = [scheme_bytes(shape, Scheme.parse(f"int4{g}")) for g in ("", "g128", "g64")]
        assert by_group == sorted(by_group)


@pytest.mark.parametrize("row", [1, 31, 32, 33, 64, 96, 128, 129])
def test_a_group_that_spans_the_row_is_the_whole_row(row):
    shape = (4, row)
    for name in ["int4g32", "int4g64s", "int4g128", "nf4g32", "bfp4g64"]:
        scheme = Scheme.parse(name)
        plain = canonical(scheme, shape)
        assert scheme_bytes(shape, plain) == scheme_bytes(shape, scheme)
        assert (plain.group_size is None) == (scheme.group_size >= row)


def test_a_whole_row_has_a_scale_that_is_no_code():
    assert str(canonical(Scheme.parse("int4g64d"), (4, 64))) == "int4"
    assert str(canonical(Scheme.parse("int4g64d"), (4, 65))) == "int4g64d"


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "mxfp8"])
@pytest.mark.parametrize("row", [1, 16, 32, 33])
def test_a_fixed_group_stays(name, row):
    assert str(canonical(Scheme.parse(name), (4, row))) == name


def test_all_legal_schemes_of_a_long_row():
    legal = [str(scheme) for scheme in legal_schemes(layer(4, 4096), "bfloat16")]
    assert len(set(legal)) == len(legal) == len(scheme_names()) - 1
    assert {"bf16", "fp16"} <= set(legal)
    assert "fp32" not in legal


def test_a_short_row_has_no_duplicates():
    legal = [str(scheme) for scheme in legal_schemes(layer(4, 64), "float32")]
    assert len(set(legal)) == len(legal)
    free = [family for family in FAMILIES.values() if not family.group_size]
    one_group = sum((1 + family.offset) * (1 + family.can_double) for family in free)
    whole_row = sum(1 + family.offset for family in free)
    coded = 2 * one_group + whole_row + len(FAMILIES) - len(free)
    assert len(legal) == coded + len(FLOAT_BITS)
    assert "int4g32" in legal
    assert "int4" in legal
    assert "int4g64" not in legal


def test_a_menu_keeps_its_order_and_its_widths_on_short_rows():
    menu = ["int8s", "int4g128", "int4g64", "int3g64", "fp32", "bf16"]
    legal = legal_schemes(layer(2, 4, 48), torch.bfloat16, menu)
    assert [str(scheme) for scheme in legal] == ["int8s", "int4", "int3", "bf16"]


def test_a_layer_alone_is_never_left_out():
    legal = legal_schemes(layer(2, 4, 48), torch.bfloat16, ["int8s", "none"])
    assert [str(scheme) for scheme in legal] == ["int8s"]


@pytest.mark.parametrize(
    ("dtype", "floats"),
    [
        (torch.bfloat16, ["bf16"]),
        ("float16", ["fp16"]),
        (torch.float32, ["bf16", "fp32"]),
        ("float64", ["bf16", "fp32"]),
    ],
)
def test_the_default_menu_can_keep_the_layer_as_it_is(dtype, floats):
    menu = default_schemes(dtype)
    assert [str(scheme) for scheme in menu if scheme.is_float] == floats
    integers = [str(scheme) for scheme in menu if not scheme.is_float]
    expected = "int2g64d int3g64d int4g64d int5g64d int6g64d int8g64d int4g128 int4g64 int8s"
    assert sorted(integers) == sorted(expected.split())
    assert legal_schemes(layer(8, 4096), dtype, menu) == menu


def test_a_dtype_without_a_scheme_is_refused():
    with pytest.raises(SchemeError, match=r"float8_e4m3fn have no scheme.*bfloat16"):
        default_schemes(torch.float8_e4m3fn)
    with pytest.raises(SchemeError, match="int8 have no scheme"):
        legal_schemes(layer(2, 2), torch.int8)


def test_an_unknown_name_in_a_menu_is_refused():
    with pytest.raises(SchemeError, match="int9"):
        legal_schemes(layer(2, 2), "bfloat16", ["int9"])
