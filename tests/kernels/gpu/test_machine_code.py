"""The machine code of the kernels for devices that are not there: see docs/kernels_gpu.md."""

import json
from itertools import product
from pathlib import Path

import pytest
import triton

from bitplan.kernels.gpu.ahead import (
    LOOKUPS,
    MIXTURES,
    TABLE,
    TARGETS,
    case_of,
    compile_ahead,
    compile_lookup_ahead,
    compile_sum_ahead,
    experts_case_of,
)
from bitplan.kernels.gpu.ahead_several import (
    TOGETHER,
    TOGETHER_TOKENS,
    compile_several_ahead,
    compile_sums_ahead,
    weights_of,
)
from bitplan.kernels.gpu.layout import CELL, words_of
from bitplan.kernels.gpu.machine_code import PARTS, cost, whole_cost
from bitplan.schema import Scheme

WRITTEN = json.loads(
    (Path(__file__).parents[3] / "docs" / "kernels_gpu.json").read_text(encoding="utf-8")
)
# Of each way to cut a product one, and codes that cross words; a table, and floats with a grid of
# bytes, on some targets; weights left out by blocks and by bits. The script has the rest.
CASES = [
    *product([*(("int4g64", tokens) for tokens in (1, 16, 64, 512)), ("int3g64", 1)], TARGETS),
    *product([("nf4g64", 1), ("nvfp4", 64)], ["sm_90", "gfx942"]),
    *product([("int4g64+2:4", 1), ("int4g64+50%", 64)], TARGETS),
    *product([("int4g64+2:4", 512), ("int4g64+50%", 1)], ["sm_80", "sm_100"]),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("scheme", "target"), CASES)
def test_the_machine_code_is_no_worse_than_written(scheme, target):
    name, tokens = scheme
    case = case_of(Scheme.parse(name), tokens, target)
    found = cost(compile_ahead(case, target), target, case.blocks.rows)
    assert found.spilled == found.local_bytes == 0
    assert found.shared_bytes <= PARTS[target].shared_of_program
    assert found.tensor > 0
    # Words of codes by 128 bits, 32 bytes a row and each word of its cells; nothing narrower than
    # the words of the grid. Of weights with a bit each, those words are bits alone: their codes are
    # where the bits say, and loads by 32 bits gather them.
    threads = case.blocks.warps * TARGETS[target].warp_size
    words = words_of(case.scheme, CELL)
    assert found.loads["128"] >= case.blocks.rows * 2 * words / threads
    assert set(found.loads) <= {"128", "64", "32"}
    [written] = [
        one
        for one in WRITTEN["kernels"]
        if (one["scheme"], one["tokens"], one["target"]) == (name, tokens, target)
    ]
    if WRITTEN["triton"] != triton.__version__:
        pytest.skip(f"docs/kernels_gpu.json is of Triton {WRITTEN['triton']}")
    better_or_same = "Write docs/kernels.* anew if this is meant: benchmarks/kernels_static.py"
    assert found.registers <= written["registers"], better_or_same
    assert found.instructions <= written["instructions"], better_or_same
    assert found.integer <= written["integer"], better_or_same
    assert found.warps_resident >= written["warps_resident"], better_or_same


@pytest.mark.parametrize(("name", "tokens"), [(n, m) for n in TABLE for m in TABLE[n]])
def test_what_is_written_spills_nothing_and_is_of_every_target(name, tokens):
    rows = [one for one in WRITTEN["kernels"] if (one["scheme"], one["tokens"]) == (name, tokens)]
    assert [one["target"] for one in rows] == list(TARGETS)
    for one in rows:
        assert one["spilled"] == one["local_bytes"] == 0
        assert one["shared_bytes"] <= PARTS[one["target"]].shared_of_program
        assert one["tensor"] > 0
        assert one["loads"]["128"] > 0
        assert set(one["loads"]) <= {"128", "64", "32"}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "tokens", "columns", "target"),
    [
        ("int3g32", 1, 480, "sm_90"),
        ("bfp7g32", 1, 4096, "sm_90"),
        ("bitmod4g64", 64, 4096, "sm_100"),
        ("ternaryg16", 16, 4096, "sm_90"),
        ("ternaryg128", 16, 4096, "sm_100"),
        ("int4g64+2:4", 16, 480, "sm_120"),
        ("int4g64+2:4", 64, 480, "sm_120"),
        ("int5g64+7:8", 64, 4096, "sm_80"),
        ("int4g64+50%", 1, 480, "sm_120"),
        ("int4g64+50%", 32, 4096, "sm_120"),
        ("int4g64d", 64, 4096, "sm_80"),
        ("int8g64d", 1, 4096, "sm_90"),
        ("nf4g64d", 32, 4096, "sm_120"),
    ],
)
def test_what_spilled_once_does_no_longer(name, tokens, columns, target):
    case = case_of(Scheme.parse(name), tokens, target, columns=columns)
    found = cost(compile_ahead(case, target), target, case.blocks.rows)
    assert found.spilled == found.local_bytes == 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("target", TARGETS)
def test_the_sum_of_splits_spills_nothing_and_reads_128_bits(target):
    found = cost(compile_sum_ahead(target), target, 1)
    assert found.spilled == found.local_bytes == 0
    assert set(found.loads) == {"128"}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "tokens", "target"),
    [
        *product(["int4g64"], [1, 64], TARGETS),
        ("bitmod4g64", 64, "sm_100"),
        ("ternaryg64", 64, "sm_80"),
    ],
)
def test_experts_are_no_worse_than_written_and_read_as_one_weight_is(name, tokens, target):
    case = experts_case_of(Scheme.parse(name), tokens, target)
    kernel = compile_ahead(case, target)
    found, loads = whole_cost(kernel, target), cost(kernel, target, case.blocks.rows).loads
    assert found["spilled"] == found["local_bytes"] == 0
    assert set(loads) <= {"128", "64", "32"}
    [written] = [
        one
        for one in WRITTEN["experts"]
        if (one["scheme"], one["tokens"], one["target"]) == (name, tokens, target)
    ]
    if WRITTEN["triton"] != triton.__version__:
        pytest.skip(f"docs/kernels_gpu.json is of Triton {WRITTEN['triton']}")
    assert found["registers"] <= written["registers"]
    assert found["warps_resident"] >= written["warps_resident"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "tokens", "target"),
    [
        *product(["int4g64"], [1, 64], TARGETS),
        ("nf4g64", 64, "sm_90"),
        ("nvfp4", 64, "gfx942"),
        ("bitmod4g64", 64, "sm_100"),
        ("ternaryg64", 1, "sm_80"),
        ("ternaryg64", 64, "sm_120"),
    ],
)
def test_a_stack_of_some_experts_spills_nothing_and_reads_as_one_of_all_does(name, tokens, target):
    scheme = Scheme.parse(name)
    found, of_all = (
        cost(compile_ahead(case, target), target, case.blocks.rows)
        for case in (experts_case_of(scheme, tokens, target, members=m) for m in (True, False))
    )
    assert found.spilled == found.local_bytes == 0
    assert found.shared_bytes <= PARTS[target].shared_of_program
    assert found.warps_resident >= of_all.warps_resident
    assert found.tensor == of_all.tensor > 0
    assert found.loads["128"] > 0
    assert set(found.loads) <= {"128", "64", "32"}
    assert found.loads == of_all.loads


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "target"), [*product(["nf4g64", "nf4g32"], ["sm_90", "sm_120"]), ("nf3g64", "sm_80")]
)
def test_a_stack_of_some_experts_of_tables_spills_nothing(name, target):
    case = experts_case_of(Scheme.parse(name), 1, target, members=True)
    found = cost(compile_ahead(case, target), target, case.blocks.rows)
    assert found.spilled == found.local_bytes == 0
    assert found.loads["128"] > 0
    assert set(found.loads) <= {"128", "64", "32"}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("tokens", "target"), [(16, "sm_90"), (64, "sm_100")])
def test_experts_of_tables_in_groups_of_16_spill_nothing(tokens, target):
    kernel = compile_ahead(experts_case_of(Scheme.parse("nf4g16"), tokens, target), target)
    found = whole_cost(kernel, target)
    assert found["spilled"] == found["local_bytes"] == 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("members", [False, True], ids=["all", "some"])
@pytest.mark.parametrize(
    ("name", "target"),
    [("int8s", "sm_80"), ("int8s", "sm_100"), ("int8g64d", "sm_80"), ("int8g64d", "sm_90")],
)
def test_experts_of_bytes_spill_nothing(name, target, members):
    case = experts_case_of(Scheme.parse(name), 1, target, members=members)
    found = whole_cost(compile_ahead(case, target), target)
    assert found["spilled"] == found["local_bytes"] == 0


def test_experts_that_are_written_spill_nothing_and_are_of_every_target():
    rows = WRITTEN["experts"]
    of = [(one["scheme"], one["tokens"], one["target"]) for one in rows]
    assert of == [(n, m, target) for n in MIXTURES for m in MIXTURES[n] for target in TARGETS]
    for one in rows:
        assert one["spilled"] == one["local_bytes"] == 0
        assert one["shared_bytes"] <= PARTS[one["target"]].shared_of_program


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "tokens", "target"),
    [
        *product(["int4g64 x 3"], [1], TARGETS),
        *product(["int3g64d, int4g64d, int5g64d"], [1, 16], ["sm_90"]),
        ("nf4g64, int4g64", 16, "sm_100"),
        ("ternary2g64, int4g64, bitmod4g64", 1, "sm_120"),
    ],
)
def test_weights_together_are_no_worse_than_written_and_read_as_each_is(name, tokens, target):
    kernel = compile_several_ahead(weights_of(name), tokens, target)
    found, longest = whole_cost(kernel, target), cost(kernel, target, 1)
    assert found["spilled"] == found["local_bytes"] == 0
    assert found["shared_bytes"] <= PARTS[target].shared_of_program
    assert longest.tensor > 0
    assert longest.loads["128"] > 0
    assert set(longest.loads) <= {"128", "64", "32"}
    [written] = [
        one
        for one in WRITTEN["together"]
        if (one["weights"], one["tokens"], one["target"]) == (name, tokens, target)
    ]
    if WRITTEN["triton"] != triton.__version__:
        pytest.skip(f"docs/kernels_gpu.json is of Triton {WRITTEN['triton']}")
    assert found["registers"] <= written["registers"]
    assert found["warps_resident"] >= written["warps_resident"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("names", "tokens", "target"),
    [
        (["int8g64d"] * 3, 1, "sm_90"),
        (["int2g64d"] * 3, 16, "sm_120"),
        (["int4g128", "int8s", "int6g64d"], 1, "sm_100"),
        (["int5g64d", "int6g64d", "int4g64d"], 1, "sm_90"),
    ],
)
def test_weights_together_that_spilled_once_do_no_longer(names, tokens, target):
    rows = zip(names, (4096, 1024, 1024), strict=True)
    weights = tuple((Scheme.parse(name), number) for name, number in rows)
    found = whole_cost(compile_several_ahead(weights, tokens, target), target)
    assert found["spilled"] == found["local_bytes"] == 0


def test_weights_together_that_are_written_spill_nothing_and_are_of_every_target():
    rows = WRITTEN["together"]
    of = [(one["weights"], one["tokens"], one["target"]) for one in rows]
    assert of == list(product(TOGETHER, TOGETHER_TOKENS, TARGETS))
    for one in rows:
        assert one["spilled"] == one["local_bytes"] == 0
        assert one["shared_bytes"] <= PARTS[one["target"]].shared_of_program


def test_what_is_written_beside_a_peer_is_of_every_target_and_ours_spills_nothing():
    rows = [one for one in WRITTEN["peer"] if one["of"] == "bitplan"]
    assert [(one["tokens"], one["target"]) for one in rows] == list(
        product([1, 16, 32, 512], TARGETS)
    )
    assert len(WRITTEN["peer"]) == 2 * len(rows)
    for one in rows:
        assert one["spilled"] == 0
        assert one["tensor"] > 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("target", TARGETS)
def test_the_sums_of_several_weights_spill_nothing_and_read_128_bits(target):
    found = cost(compile_sums_ahead(3, target), target, 1)
    assert found.spilled == found.local_bytes == 0
    assert set(found.loads) == {"128"}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "target"),
    [*product(["int4g64"], TARGETS), ("bitmod4g64", "sm_90"), ("nvfp4", "gfx942")],
)
def test_a_lookup_is_no_worse_than_written_and_stops_where_there_is_no_such_row(name, target):
    kernel = compile_lookup_ahead(Scheme.parse(name), target)
    found = whole_cost(kernel, target)
    assert found["spilled"] == found["local_bytes"] == 0
    if target == "gfx942":
        assert "s_trap" in kernel.asm["amdgcn"]
    else:
        assert "__assertfail" in kernel.asm["ptx"]
    [written] = [
        one for one in WRITTEN["lookups"] if (one["scheme"], one["target"]) == (name, target)
    ]
    if WRITTEN["triton"] != triton.__version__:
        pytest.skip(f"docs/kernels_gpu.json is of Triton {WRITTEN['triton']}")
    assert found["registers"] <= written["registers"]
    assert found["warps_resident"] >= written["warps_resident"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["nf4g16", "ternary2g32d", "int5g128"])
def test_a_lookup_of_rows_that_are_no_whole_panels_spills_nothing(name):
    found = whole_cost(compile_lookup_ahead(Scheme.parse(name), "sm_80", "fp32", 1120), "sm_80")
    assert found["spilled"] == found["local_bytes"] == 0


def test_lookups_that_are_written_spill_nothing_and_are_of_every_target():
    rows = WRITTEN["lookups"]
    assert [(one["scheme"], one["target"]) for one in rows] == list(product(LOOKUPS, TARGETS))
    for one in rows:
        assert one["spilled"] == one["local_bytes"] == 0
        assert one["shared_bytes"] <= PARTS[one["target"]].shared_of_program
