"""Pages of mapped files are given back; nothing else is."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitplan.memory import release, total_memory_bytes

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/pagemap").exists() or sys.platform != "linux",
    reason="pages are given back on Linux only",
)


def resident_bytes() -> int:
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) * 1024


@pytest.fixture
def file(tmp_path: Path) -> Path:
    values = torch.arange(32 * MIB // 4, dtype=torch.float32)
    save_file({"first": values, "second": values + 1}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_pages_of_a_mapped_tensor_are_given_back_and_read_again(file):
    mapped = load_file(file)["first"]
    expected = mapped.double().sum()
    before = resident_bytes()
    release([mapped])
    assert before - resident_bytes() > 30 * MIB
    assert mapped.double().sum() == expected


def test_a_transposed_view_is_given_back_too(file):
    mapped = load_file(file)["first"].reshape(1024, -1)
    expected = mapped.double().sum()
    before = resident_bytes()
    release([mapped.t()])
    assert before - resident_bytes() > 30 * MIB
    assert mapped.double().sum() == expected


def test_what_was_written_stays(file):
    mapped = load_file(file)
    mapped["first"][12345] = -7.0
    first, second = mapped["first"].clone(), mapped["second"].clone()
    release(mapped.values())
    assert torch.equal(mapped["first"], first)
    assert torch.equal(mapped["second"], second)


def test_what_is_in_no_file_stays():
    values = torch.arange(8 * MIB, dtype=torch.float32)
    shared = values.clone().share_memory_()
    release(
        [values, shared, values[5:], torch.empty(0), torch.ones(3), torch.empty(3, device="meta")]
    )
    assert torch.equal(values, torch.arange(8 * MIB, dtype=torch.float32))
    assert torch.equal(shared, values)


def test_the_memory_of_the_machine_is_more_than_this_process_takes():
    assert resident_bytes() < total_memory_bytes() < 1 << 50
