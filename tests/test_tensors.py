"""Files of tensors, with a digest."""

import logging
import os
from pathlib import Path

import pytest
import torch

from bitplan.tensors import digest_of, load_tensors, save_tensors

TENSORS = {
    "codes": torch.arange(90, dtype=torch.uint8).view(9, 10),
    "scale": torch.linspace(-1, 1, 33).bfloat16(),
    "reached": torch.tensor(True),
    "none": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path) -> Path:
    save_tensors(tmp_path / "deep" / "file.safetensors", TENSORS)
    return tmp_path / "deep" / "file.safetensors"


def test_what_is_saved_can_be_loaded(path):
    found = load_tensors(path)
    assert found is not None
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_the_same_tensors_are_the_same_bytes(path):
    first = path.read_bytes()
    save_tensors(path, dict(reversed(TENSORS.items())))
    assert path.read_bytes() == first


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    # As a disk or a copy would: in place of the old file, at another time.
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("is_known", [False, True], ids=["first met", "met before"])
def test_a_flipped_bit_anywhere_is_found(is_known, path, caplog):
    size = path.stat().st_size
    for at in range(0, size, 7):
        save_tensors(path, TENSORS)
        if is_known:
            assert load_tensors(path) is not None
        flip(path, at)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            found = load_tensors(path)
        # A bit of the header may be one that says nothing, as a space.
        if found is None:
            assert f"{path} is damaged" in caplog.text
            assert not path.exists()
        else:
            assert digest_of(found) == digest_of(TENSORS)
            assert at < size - sum(tensor.nbytes for tensor in TENSORS.values())


def test_what_is_missing_is_none_without_a_word(tmp_path, caplog):
    assert load_tensors(tmp_path / "none.safetensors") is None
    assert load_tensors(tmp_path / "none" / "none.safetensors") is None
    assert not caplog.text


def test_a_file_is_checked_once(path):
    assert load_tensors(path) is not None
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_tensors(path) is not None  # nothing tells that it is another
