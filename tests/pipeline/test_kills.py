"""Signals at any instant: nothing is lost that matters, and the end is the same, byte for byte."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from torch.overrides import TorchFunctionMode

from bitplan import Budget, allocate, describe, measure
from bitplan.allocator.search import INTERRUPTED
from bitplan.calibration import Sizes

SETTINGS = {
    "sizes": Sizes(calibration=40, search=4, held_out=6, length=16),
    "schemes": ["int2", "int4", "int8s", "bf16"],
    "refine_tokens": 1_000,
}


def test_kills_and_interrupts_of_the_command_change_no_byte(command_line, tiny_folder, tmp_path):
    def arguments(name: str) -> list[str]:
        sizes = "--sequences 40 --length 16 --refine-tokens 2000"
        files = f"--out {tmp_path}/{name}.json --report {tmp_path}/{name}.html"
        text = f"allocate {tiny_folder('mixtral')} --budget-gb 0.00004 {sizes} {files}"
        return [*text.split(), "--workdir", str(tmp_path / f"work-{name}"), "--json"]

    start = time.monotonic()
    assert command_line(*arguments("whole")) == 0
    took_s = time.monotonic() - start
    expected, plan = (tmp_path / f"{name}.json" for name in ("whole", "killed"))
    chance, codes = random.Random(0), []
    for turn in range(10):
        kill = (signal.SIGINT, signal.SIGKILL)[turn % 2]
        after_s = chance.uniform(0.05, 0.8) * took_s
        codes.append(command_line(*arguments("killed"), after_s=after_s, kill=kill))
        if plan.exists() and INTERRUPTED in plan.read_text():
            assert codes[-1] == 0
            plan.unlink()
        elif plan.exists():  # it was done, or nearly: begin anew
            assert plan.read_bytes() == expected.read_bytes()
            plan.unlink()
            shutil.rmtree(tmp_path / "work-killed")
    assert set(codes) <= {0, 130, -signal.SIGKILL}
    assert codes.count(130) > 0
    assert codes.count(-signal.SIGKILL) > 1
    assert command_line(*arguments("killed")) == 0
    assert plan.read_bytes() == expected.read_bytes()
    told = command_line.errors.read_text()
    assert told.count("Stopped. What was done is kept") == codes.count(130)
    assert "Traceback" not in told


@contextlib.contextmanager
def interrupted(after_s: float) -> Iterator[list[int]]:
    """Interrupt the block after a while; tells whether that was before its end."""
    told: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        yield told
    except BaseException:
        # Not only KeyboardInterrupt: now and then torch's own code makes another error of it.
        if not told:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


# Python drops an interrupt that comes while it finalizes an object, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_instant_give_a_module_back(tiny_model, tmp_path):
    model = tiny_model("mixtral", torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = describe(model)
    budget = Budget(bytes=(found.smallest_bytes + found.bytes) // 3)
    expected = allocate(model, budget, workdir=tmp_path / "first", **SETTINGS)
    start = time.monotonic()
    allocate(model, budget, workdir=tmp_path / "second", **SETTINGS)
    took_s = time.monotonic() - start
    chance, interrupts = random.Random(0), 0
    for turn in range(30):
        workdir = tmp_path / f"stopped-{turn // 3}"
        with interrupted(chance.uniform(0.001, 0.8 * took_s)) as told:
            allocate(model, budget, workdir=workdir, **SETTINGS)
        interrupts += len(told)
        now = model.state_dict()
        assert all(torch.equal(now[name], before[name]) for name in before)
    assert interrupts > 5
    for workdir in sorted(tmp_path.glob("stopped-*")):
        assert allocate(model, budget, workdir=workdir, **SETTINGS) == expected


class InterruptsAfterCopies(TorchFunctionMode):
    """Interrupts that arrive when a weight has just been written, at some of the copies."""

    def __init__(self, at: set[int]) -> None:
        super().__init__()
        self.at, self.copies = at, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func is torch.Tensor.copy_:
            self.copies += 1
            if self.copies in self.at:
                raise KeyboardInterrupt
        return output


def test_an_interrupt_right_after_a_weight_was_written_gives_it_back(tiny_model, tmp_path):
    model = tiny_model("llama", torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = describe(model)
    budget = Budget(bytes=(found.smallest_bytes + found.bytes) // 3)
    measure(model, workdir=tmp_path, **SETTINGS)
    all_copies = InterruptsAfterCopies(set())
    with all_copies:
        allocate(model, budget, workdir=tmp_path, **SETTINGS)
    assert all_copies.copies > 20
    for first in range(1, all_copies.copies, 2):
        for measured in tmp_path.rglob("measured"):
            shutil.rmtree(measured)
        # The second and the third arrive while the first is heeded.
        with (
            pytest.raises(KeyboardInterrupt),
            InterruptsAfterCopies({first, first + 1, first + 3}),
        ):
            allocate(model, budget, workdir=tmp_path, **SETTINGS)
        now = model.state_dict()
        assert all(torch.equal(now[name], before[name]) for name in before), first
