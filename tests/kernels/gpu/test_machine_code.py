"""The machine code of the kernels for devices that are not there: see docs/kernels_gpu.md."""

import json
from pathlib import Path

import pytest
import triton

from bitplan.kernels.gpu.ahead import (
    TARGETS,
    case_of,
    compile_ahead,
    compile_sum_ahead,
)
from bitplan.kernels.gpu.machine_code import PARTS, cost
from bitplan.schema import Scheme

WRITTEN = json.loads(
    (Path(__file__).parents[3] / "docs" / "kernels_gpu.json").read_text(encoding="utf-8")
)
# Of each way to cut a product one, and codes that cross words; the script has the rest.
CASES = [*(("int4g64", tokens) for tokens in (1, 16, 64, 512)), ("int3g64", 1)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "tokens"), CASES)
def test_the_machine_code_is_no_worse_than_written(name, tokens, target):
    case = case_of(Scheme.parse(name), tokens, target)
    found = cost(compile_ahead(case, target), target, case.blocks.rows)
    assert found.spilled == found.local_bytes == 0
    assert found.shared_bytes <= PARTS[target].shared_of_program
    assert found.tensor > 0
    # Codes by 128 bits, 32 bytes a row and bit; nothing narrower than the words of the grid.
    threads = case.blocks.warps * TARGETS[target].warp_size
    assert found.loads["128"] >= case.blocks.rows * 2 * int(case.scheme.bits) / threads
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


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("target", TARGETS)
def test_the_sum_of_splits_spills_nothing_and_reads_128_bits(target):
    found = cost(compile_sum_ahead(target), target, 1)
    assert found.spilled == found.local_bytes == 0
    assert set(found.loads) == {"128"}
