"""Work that was done is not done again, damage is made good, and the end is the same."""

import json
import logging
import os
import resource
import shutil
import signal
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from bitplan import Budget, allocate, apply_plan, describe, measure
from bitplan.apply import held_bytes
from bitplan.calibration import Sizes
from bitplan.errors import InputError

SETTINGS = {
    "sizes": Sizes(calibration=8, search=4, held_out=6, length=16),
    "schemes": ["int2", "int4", "bf16"],
}


def files_under(folder: Path, suffix: str = "") -> dict[Path, tuple[int, int]]:
    """Which file it is, and when it was written: nobody wrote one again that stays the same."""
    found = {}
    # A walk does not mind folders that a process at work removes meanwhile.
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    for path in paths:
        if not path.name.endswith(suffix):
            continue
        with suppress(FileNotFoundError):  # a process at work renames its temporary files meanwhile
            told = path.stat()
            if stat.S_ISREG(told.st_mode):
                found[path] = told.st_ino, told.st_mtime_ns
    return found


def is_unfinished(path: Path) -> bool:
    return any(part.endswith(".tmp") for part in path.parts)


def is_kept(before: dict, after: dict) -> bool:
    return all(after.get(path) == told for path, told in before.items())


def command(folder: Path, workdir: Path, out: Path, *more: str) -> list[str]:
    sizes = "--sequences 40 --length 16"
    return [
        *f"measure {folder} {sizes} --out {out} --workdir {workdir} --json".split(),
        *more,
    ]


def test_nothing_is_measured_twice_however_often_it_is_killed(command_line, tiny_folder, tmp_path):
    folder, work = tiny_folder("mixtral"), tmp_path / "work"
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    assert command_line(*command(folder, tmp_path / "first", whole)) == 0

    def done() -> dict:
        return {path: told for path, told in files_under(work).items() if "weights-" in str(path)}

    before: dict = {}
    lengths = []
    for least in range(1, 200, 30):
        command_line(
            *command(folder, work, killed),
            when=lambda least=least: len(done()) >= least,
            kill=signal.SIGKILL,
        )
        now = done()
        assert is_kept(before, now)
        before = {path: told for path, told in now.items() if not is_unfinished(path)}
        lengths.append(len(before))
    assert command_line(*command(folder, work, killed)) == 0
    assert is_kept(before, files_under(work))
    assert killed.read_bytes() == whole.read_bytes()
    assert len(set(lengths)) > 4  # the kills came at several places
    assert not list(work.rglob(".*"))


def test_a_scheme_more_measures_itself_alone(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    few = measure(model, workdir=tmp_path / "work", **SETTINGS)
    before = files_under(tmp_path / "work")
    settings = {**SETTINGS, "schemes": ["int2", "int3", "int4", "bf16"]}
    more = measure(model, workdir=tmp_path / "work", **settings)
    after = files_under(tmp_path / "work")
    assert is_kept(before, after)
    assert {path.stem for path in after.keys() - before.keys()} == {"int3"}
    assert more == measure(model, workdir=tmp_path / "other", **settings)
    assert few == measure(model, workdir=tmp_path / "other", **SETTINGS)


def test_two_commands_in_one_folder_do_not_disturb_each_other(command_lines, tiny_folder, tmp_path):
    folder, lines = tiny_folder("mixtral"), [command_lines(), command_lines()]
    assert lines[0](*command(folder, tmp_path / "alone", tmp_path / "alone.json")) == 0
    for turn in range(3):
        work, codes = tmp_path / f"work-{turn}", {}

        def run(name: int, work: Path = work, codes: dict = codes) -> None:
            out = tmp_path / f"{name}.json"
            codes[name] = lines[name](*command(folder, work, out))

        threads = [threading.Thread(target=run, args=(name,)) for name in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == {0: 0, 1: 0}, lines[0].errors.read_text()
        for name in codes:
            assert (tmp_path / f"{name}.json").read_bytes() == (
                tmp_path / "alone.json"
            ).read_bytes()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # The last digit of a number may be another and the number the same; this bit makes no digit.
    content[len(content) // 2] ^= 64
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["statistics-", "costs", "sampled-"])
def test_what_is_damaged_is_made_again(damaged, tiny_model, tmp_path, caplog):
    model = tiny_model("llama", torch.bfloat16)
    expected = measure(model, workdir=tmp_path, **SETTINGS)
    contents = {path: path.read_bytes() for path in files_under(tmp_path)}
    broken = [path for path in contents if damaged in str(path)]
    for path in broken:
        flip_a_bit(path)
    with caplog.at_level(logging.WARNING):
        assert measure(model, workdir=tmp_path, **SETTINGS) == expected
    assert broken
    assert all(f"{path} is damaged" in caplog.text for path in broken)
    assert {path: path.read_bytes() for path in files_under(tmp_path)} == contents


def test_damaged_weights_are_rendered_again(tiny_model, tmp_path, caplog):
    model = tiny_model("llama", torch.bfloat16)
    found = describe(model)
    budget = Budget(bytes=(found.smallest_bytes + found.bytes) // 3)
    expected = allocate(model, budget, workdir=tmp_path, refine_tokens=0, **SETTINGS)
    for measured in tmp_path.rglob("measured"):
        shutil.rmtree(measured)
    used = [
        path
        for path in files_under(tmp_path, ".safetensors")
        if expected.schemes.get(path.parent.name) is not None
        and str(expected.schemes[path.parent.name]) == path.stem
    ]
    contents = {path: path.read_bytes() for path in used}
    for path in used:
        flip_a_bit(path)
    with caplog.at_level(logging.WARNING):
        again = allocate(model, budget, workdir=tmp_path, refine_tokens=0, **SETTINGS)
    assert again == expected
    assert used
    assert all(f"{path} is damaged" in caplog.text for path in used)
    assert {path: path.read_bytes() for path in used} == contents


def test_a_full_disk_is_said_and_the_same_command_goes_on(command_line, tiny_folder, tmp_path):
    folder, work = tiny_folder("mixtral"), tmp_path / "work"
    whole, full = tmp_path / "whole.json", tmp_path / "full.json"
    assert command_line(*command(folder, tmp_path / "first", whole)) == 0
    sizes = sorted({path.stat().st_size for path in files_under(tmp_path / "first")})
    before: dict = {}
    failures = 0
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (sizes[0] - 1, *sizes[len(sizes) // 4 :: len(sizes) // 4]):
        resource.prlimit(command_line.server.pid, resource.RLIMIT_FSIZE, (size, hard))
        code = command_line(*command(folder, work, full))
        now = {
            path: told
            for path, told in files_under(work).items()
            # These are kept as far as they came, and go on.
            if ".partial" not in path.name and not path.name.startswith("sampled-")
        }
        assert is_kept(before, now)
        before = now
        assert not list(work.rglob(".*"))
        failures += code == 2
        assert code == 2 or full.stat().st_size <= size
    resource.prlimit(command_line.server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert failures > 2
    told = " ".join(command_line.errors.read_text().split())
    assert told.count("Error: Cannot write") == failures
    assert told.count("Free some space") == failures
    assert "Traceback" not in told
    assert command_line(*command(folder, work, full)) == 0
    assert is_kept(before, files_under(work))
    assert json.loads(full.read_text()) == json.loads(whole.read_text())
    assert full.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("limit", [1e-9, 2e-5])
def test_a_bounded_store_gives_the_same_plan_and_keeps_to_its_bound(limit, tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    found = describe(model)
    budget = Budget(bytes=int(found.smallest_bytes + 0.3 * (found.bytes - found.smallest_bytes)))
    settings = {**SETTINGS, "refine_tokens": 1_000}
    plans = [
        allocate(model, budget, workdir=tmp_path / name, store_gb=bound, **settings)
        for name, bound in (("a", None), ("b", limit), ("b", limit))
    ]
    assert len({plan.to_json() for plan in plans}) == 1
    weights = [
        path for path in (tmp_path / "b").glob("*/weights-*/*/*.safetensors") if path.stem != "bf16"
    ]
    assert sum(path.stat().st_size for path in weights) <= limit * 1e9
    # Whatever is no longer there is rendered again.
    applied = apply_plan(tiny_model("mixtral", torch.bfloat16), plans[0], workdir=tmp_path / "b")
    assert held_bytes(applied) == plans[0].weight_bytes


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_no_number_above_zero_is_refused(limit, tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"store_gb is .* must be a number above zero"):
        measure(tiny_model("llama"), workdir=tmp_path, store_gb=limit, **SETTINGS)
