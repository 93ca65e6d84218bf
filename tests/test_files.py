"""Files appear whole or not at all, and places that cannot be written are named."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitplan.errors import InputError, OutputError
from bitplan.files import (
    check_readable,
    check_writable,
    make_folder,
    read_text,
    remove_stale,
    replacing,
    write_text,
)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "folder"):
        with pytest.raises(OutputError, match=f"{file} is a file. Name another"):
            make_folder(path)


def test_a_folder_of_too_long_a_name_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"Cannot make the folder .*: File name too long"):
        make_folder(tmp_path / ("a" * 300))


def test_what_cannot_be_read_is_said_beforehand(tmp_path):
    (tmp_path / "there").touch()
    check_readable(tmp_path, tmp_path / "there")
    for path in (tmp_path / "missing", "a\0b"):
        with pytest.raises(InputError, match=r"Cannot read .* Check the path"):
            check_readable(tmp_path, path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond a size, as if there were no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "größer")
    assert read_text(path) == "größer"
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_what_fails_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_two_processes_do_not_write_to_one_temporary_file(tmp_path):
    with replacing(tmp_path / "file.txt") as temporary:
        assert str(os.getpid()) in temporary.parent.name
        assert temporary.parent.parent == tmp_path  # on the same disk: renaming is one step
        temporary.write_text("new")


def test_what_dead_processes_of_this_machine_left_is_removed(tmp_path):
    with replacing(tmp_path / "deep" / "file.txt") as temporary:
        folder, mine = temporary.parent.parent, temporary.parent.name
        child = subprocess.Popen(["true"])
        child.wait()
        pid = str(os.getpid())
        dead = mine.replace(pid, str(child.pid))
        machine = mine.removeprefix(".file.txt.").partition(".")[0]
        elsewhere = dead.replace(machine, "another")
        kept = [mine, elsewhere, ".hidden.tmp", ".a.b.c.tmp", dead.removesuffix(".tmp")]
        for name in (dead.replace("file", "older"), *kept[1:]):
            (folder / name).write_text("half")
        (folder / dead).mkdir()
        (folder / dead / ".tmpx").write_text("what safetensors was writing")
        remove_stale(tmp_path)
        assert names_in(folder) == sorted(kept)
        temporary.write_text("whole")


def test_what_was_killed_over_a_file_is_removed_when_it_is_written_again(tmp_path):
    """Also where no work folder is: a plan, a report, a downloaded asset."""
    path = tmp_path / "[my] plan*.json"
    kill = "import os; from bitplan.files import *\nwith replacing(NAME) as t:\n"
    kill += "    t.write_text('half'); t.with_name('.tmpx').touch(); os.kill(os.getpid(), 9)"
    for name in (str(path), str(tmp_path / "other.json")):
        program = kill.replace("NAME", repr(name))
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert len(names_in(tmp_path)) == 2
    write_text(path, "whole")
    other, mine = names_in(tmp_path)
    assert mine == path.name
    assert other.startswith(".other.json.")


@pytest.mark.parametrize("kind", ["text", "tensors"])
def test_a_full_disk_is_said_and_leaves_the_old_file(kind, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        if kind == "text":
            write_text(path, "x" * 100_000)
        else:
            with replacing(path) as temporary:
                save_file({"x": torch.zeros(100_000)}, temporary)

    message = r"Cannot write .*file: .*too large.* Free some space"
    with full_disk(1000), pytest.raises(OutputError, match=message):
        write()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_place_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="Cannot make the folder"):
            make_folder(place)
    for path in (tmp_path / "file" / "plan.json", tmp_path):
        with pytest.raises(OutputError, match=r"Cannot make the folder|is a folder, but a file"):
            check_writable(tmp_path / "fine.json", path)
        with pytest.raises(OutputError, match="Cannot"):
            write_text(path, "new")
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="is not writable"):
        check_writable(tmp_path / "plan.json")
    tmp_path.chmod(0o700)


def test_checking_writes_nothing(tmp_path):
    check_writable(tmp_path / "deep" / "plan.json", tmp_path / "report.html")
    assert names_in(tmp_path) == ["deep"]
    assert names_in(tmp_path / "deep") == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("a\0b", "null"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(path, message):
    with pytest.raises(InputError, match=rf"Cannot read .*: .*{message}.*\. Check the path"):
        read_text(path)
