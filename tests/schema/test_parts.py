"""What a matrix may be stored as beside plain codes: names, shapes of the parts, what has none."""

import re

import pytest
from pydantic import TypeAdapter

from bitplan.errors import SchemeError
from bitplan.footprint import canonical, legal_schemes, scheme_bytes
from bitplan.schema import (
    Channels,
    Kind,
    Layer,
    LowRank,
    Salient,
    Scheme,
    parts,
    scheme_names,
    unfit,
)
from bitplan.schema.parts import INT8

CHANGES = ["2%int8", "1%bf16", "99%int8", "r1", "r16", "r9999"]
CHANGES += ["2:4+1%int8", "50%+r8", "1%int8+r4", "50%+2%bf16+r32"]
CHANGES += ["25%ch", "1%ch", "99%ch", "2:4+25%ch", "50%+10%ch+2%bf16+r32"]


@pytest.mark.parametrize("change", CHANGES)
def test_every_coded_scheme_may_have_them(change):
    pattern = TypeAdapter(Scheme).json_schema()["pattern"]
    for name in scheme_names():
        if (base := Scheme.parse(name)).is_float:
            continue
        scheme = Scheme.parse(f"{name}+{change}")
        assert str(scheme) == f"{name}+{change}"
        assert re.search(pattern, str(scheme))
        assert scheme.is_composed
        assert scheme.base.sparsity == scheme.sparsity
        assert (scheme.stem, scheme.bits) == (base.stem, base.bits)


def test_a_part_of_a_scheme_is_what_its_name_says():
    scheme = Scheme.parse("int4g64+2:4+1%int8+r16")
    assert scheme.salient == Salient(percent=1, format="int8")
    assert scheme.low_rank == LowRank(rank=16)
    assert str(scheme.base) == "int4g64+2:4"
    assert not scheme.base.is_composed


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("int4g64+0%int8", "'0%int8' is no sparsity, share of columns left out, share of sal"),
        ("int4g64+2%int4", r"'2%int4' is no .*int8 or bf16, as 2%int8"),
        ("int4g64+r0", r"'r0' is no .*an r and their rank.*as r16"),
        ("int4g64+r10000", r"'r10000' is no .*up to 9999"),
        ("int4g64+2%int8+3%int8", r"has 2%int8 and 3%int8. Leave one of them out"),
        ("int4g64+r4+r4", r"has r4 and r4. Leave one"),
        ("int4g64+r4+2%int8", r"another order. Write int4g64.2%int8.r4"),
        ("int4g64+0%ch", r"'0%ch' is no .* whole percents and ch, for channels, as 25%ch"),
        ("int4g64+100%ch", r"'100%ch' is no sparsity"),
        ("int4g64+2%ch+3%ch", r"has 2%ch and 3%ch. Leave one of them out"),
        ("int4g64+2%int8+25%ch", r"another order. Write int4g64.25%ch.2%int8"),
        ("int4g64+25%ch+50%", r"another order. Write int4g64.50%.25%ch"),
        ("bf16+25%ch", r"bf16 keeps all weights as they are. Write int8g64.25%ch"),
        ("int4g64+2%int8+2:4", r"another order. Write int4g64.2:4.2%int8"),
        ("bf16+2%int8", r"bf16 keeps all weights as they are. Write int8g64.2%int8"),
        ("fp32+r8", r"fp32 keeps all weights as they are"),
    ],
)
def test_changes_that_there_are_not(name, why):
    with pytest.raises(SchemeError, match=why):
        Scheme.parse(name)
    assert not re.search(TypeAdapter(Scheme).json_schema()["pattern"], name)


@pytest.mark.parametrize("read", [Salient.parse, LowRank.parse, Channels.parse])
def test_a_part_says_what_it_can_be(read):
    with pytest.raises(SchemeError, match=r"'half' is no .* as (2%int8|r16|25%ch)\."):
        read("half")


@pytest.mark.parametrize(
    ("percent", "row", "kept"),
    [
        (1, 64, 8),
        (1, 800, 8),
        (1, 801, 16),
        (2, 576, 16),
        (2, 1536, 32),
        (1, 3199, 32),  # 31.99 columns are four eights
        (1, 3200, 32),
        (1, 3201, 64),
        (5, 4096, 224),
        (50, 10, 8),
    ],
)
def test_columns_are_kept_in_eights_or_32s(percent, row, kept):
    found = Salient(percent=percent, format="int8").columns(row)
    assert found == kept
    assert 100 * found >= percent * row


@pytest.mark.parametrize(
    ("percent", "row", "gone"),
    [
        (25, 64, 16),
        (20, 64, 16),  # 12.8
        (18, 64, 8),  # 11.52
        (50, 60, 32),  # 30
        (20, 576, 128),  # 115.2
        (10, 576, 64),  # 57.6
        (8, 576, 32),  # 46.08
        (5, 576, 32),  # 28.8: eights
        (25, 4096, 1024),
        (1, 399, 0),
        (1, 400, 8),
    ],
)
def test_columns_are_left_out_in_eights_or_32s(percent, row, gone):
    found = Channels(percent=percent)
    assert found.left_out(row) == gone
    assert found.kept(row) == row - gone
    assert (found.unfit(row) is None) == (gone > 0)


def test_the_parts_of_a_stack_of_matrices():
    found = parts(Scheme.parse("int3g64+2:4+2%bf16+r4"), (3, 48, 96))
    assert found == {
        "base": (Scheme.parse("int3g64+2:4"), (3, 48, 88)),
        "salient": (Scheme.parse("bf16"), (3, 48, 8)),
        "up": (INT8, (3, 48, 4)),
        "down": (INT8, (3, 4, 96)),
    }
    assert parts(Scheme.parse("int3g64+2:4+25%ch+2%bf16+r4"), (3, 48, 96)) == {
        "base": (Scheme.parse("int3g64+2:4"), (3, 48, 64)),
        "salient": (Scheme.parse("bf16"), (3, 48, 8)),
        "up": (INT8, (3, 48, 4)),
        "down": (INT8, (3, 4, 72)),
    }
    plain = Scheme.parse("int3g64")
    assert parts(plain, (48, 96)) == {"base": (plain, (48, 96))}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        # A base of 56 columns, 8 bytes for each scale and offset pair; then 8 codes and a scale.
        ("int4g32+1%int8", (5, 64), 5 * (28 + 2 * 4) + 5 * (8 + 2) + 8 * 4),
        ("int4g32+1%bf16", (5, 64), 5 * (28 + 2 * 4) + 5 * 16 + 8 * 4),
        ("int4g32+r3", (5, 64), 5 * (32 + 2 * 4) + 5 * (8 + 2) + 3 * (64 + 2)),
        ("int4+2:4+1%int8", (5, 64), 5 * (16 + 6 + 4) + 5 * 10 + 32),
        # A base of 48 columns in two groups, and a bit for each of the 64.
        ("int4g32+25%ch", (5, 64), 5 * (24 + 2 * 4) + 8),
        ("int4g32+25%ch", (3, 5, 62), 3 * (5 * (24 + 2 * 4) + 8)),
        ("int4+2:4+25%ch+1%int8", (5, 64), 5 * (12 + 6 + 4) + 5 * 10 + 32 + 8),
        ("nvfp4+1%int8", (2, 5, 64), 2 * (5 * (28 + 4) + 4 + 5 * 10 + 32)),
    ],
)
def test_known_sizes(name, shape, expected):
    assert scheme_bytes(shape, Scheme.parse(name)) == expected


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("int3+2%int8", (48, 8), "2%int8 keeps 8 columns, and its rows have 8 weights"),
        (
            "int3+25%ch",
            (48, 15),
            "25%ch of columns, in eights, leaves out none, and its rows have 15",
        ),
        (
            "int3+99%ch",
            (48, 62),
            "99%ch of columns, in eights, leaves out 64, and its rows have 62",
        ),
        ("int3+50%ch+2%int8", (48, 16), "2%int8 keeps 8 columns, and its rows have 8 weights"),
        ("int3+2:4+25%ch", (48, 62), "2:4 needs rows in 4s, and these have 46 weights"),
        ("int3+50%ch+r8", (48, 16), "r8 is below no side of 48 by 8"),
        ("int3+2:4+2%int8", (48, 62), "2:4 needs rows in 4s, and these have 54 weights"),
        ("int3+1:8+2%int8+r4", (48, 64), None),
        ("int3+r8", (8, 64), "r8 is below no side of 8 by 64"),
        ("int3+r8", (3, 64, 8), "r8 is below no side of 64 by 8"),
        ("int3+r7", (3, 64, 8), None),
        ("int3+2:4", (48, 62), "2:4 needs rows in 4s"),
    ],
)
def test_what_a_matrix_cannot_have_is_left_out_of_its_menu(name, shape, why):
    found = unfit(Scheme.parse(name), shape)
    assert found is None if why is None else found is not None and why in found
    kind = Kind.EXPERTS if len(shape) == 3 else Kind.LINEAR
    layer = Layer(name="x", kind=kind, shape=shape)
    legal = legal_schemes(layer, "bfloat16", [name, "bf16"])
    assert [str(scheme) for scheme in legal] == ([name, "bf16"] if why is None else ["bf16"])


def test_a_group_that_spans_the_row_of_the_base_is_the_whole_row():
    scheme = Scheme.parse("int4g64d+2%int8+r4")
    assert str(canonical(scheme, (32, 72))) == "int4+2%int8+r4"
    assert canonical(scheme, (32, 80)) == scheme
    assert str(canonical(Scheme.parse("int4g64+25%ch"), (32, 80))) == "int4+25%ch"
