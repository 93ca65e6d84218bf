"""A disk that fills: what people are told, and that what is small can be written still."""

import errno
import os
import shutil

import pytest

from bitplan.errors import OutputError
from bitplan.files import write_text
from bitplan.service.store.reserve import MOST_BYTES, SHARE, Reserve
from bitplan.service.work.faults import fault_of


def bare(*_, **__) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def of_the_library(folder, monkeypatch) -> None:
    monkeypatch.setattr("pathlib.Path.write_text", bare)
    write_text(folder / "costs.json", "{}")


def of_another_process(*_) -> None:
    """Its cause stays there."""
    raise OutputError(f"Cannot write a.safetensors: I/O error: {os.strerror(errno.ENOSPC)}.")


@pytest.mark.parametrize("fail", [bare, of_the_library, of_another_process])
def test_a_full_disk_is_told_in_a_sentence_and_is_nobody_s_fault(fail, tmp_path, monkeypatch):
    with pytest.raises((OSError, OutputError)) as caught:
        fail(tmp_path, monkeypatch)
    fault = fault_of(caught.value, tmp_path)
    assert (fault.kind, fault.is_input) == ("OutputError", False)
    assert fault.message.startswith("The disk is full: ")
    assert f"of {shutil.disk_usage(tmp_path).total / 1e6:,.0f} MB are free" in fault.message
    assert "then retry the job: it goes on from what it has." in fault.message
    assert str(tmp_path) not in fault.message


def test_another_place_that_cannot_be_written_is_told_as_it_is(tmp_path):
    fault = fault_of(OutputError("Cannot write x: Permission denied. Free some space."), tmp_path)
    assert fault.message == "Cannot write x: Permission denied. Free some space."
    assert not fault.is_input


def test_a_reserve_takes_room_and_gives_half_of_it_each_time(tmp_path, monkeypatch):
    # Others write to this disk meanwhile.
    usage = shutil.disk_usage(tmp_path)._replace(free=801_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    file = tmp_path / "reserve"
    reserve = Reserve(file)
    reserve.let_go()  # of nothing
    assert not file.exists()
    reserve.keep()
    kept = file.stat().st_size
    assert 0 < kept <= min(MOST_BYTES, usage.free // SHARE)
    assert file.stat().st_blocks * 512 >= kept
    Reserve(file).let_go()
    assert file.stat().st_size == kept // 2
    reserve.keep()
    assert file.stat().st_size >= 0.9 * kept
