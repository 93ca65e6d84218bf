"""Kills at any moment of a pass block by block: the same command goes on, to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

SERVER = """
import os, sys, time
import torch, transformers
from transformers import LlamaForCausalLM
from bitplan import measure
from bitplan.calibration import Sizes

torch.set_num_threads(1)


def told(stage, done, total):
    if stage == "statistics":
        with open(workdir + ".steps", "a") as file:
            print(done, file=file)
        time.sleep(0.02)


for line in sys.stdin:
    child = os.fork()
    if not child:
        folder, workdir, out = line.split()
        measure(
            folder,
            workdir=workdir,
            through="blocks",
            sizes=Sizes(calibration=6, search=2, held_out=2, length=16),
            schemes=["int2", "int4g32", "bf16"],
            progress=told,
        ).save(out)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Measures in a fresh process for every line that is read; imports are done once."""


class Measuring:
    """Starts processes that measure, and may kill them."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, *arguments: str, until_step: int | None = None) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        before = len(lines(f"{arguments[1]}.steps"))
        self.server.stdin.write(" ".join(arguments) + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        while until_step is not None and len(lines(f"{arguments[1]}.steps")) - before < until_step:
            time.sleep(0.002)
        if until_step is not None:
            os.kill(child, signal.SIGKILL)
        return int(self.server.stdout.readline())

    def close(self) -> None:
        self.server.kill()
        self.server.communicate()


@pytest.fixture
def run() -> Iterator[Measuring]:
    measuring = Measuring()
    yield measuring
    measuring.close()


def lines(path: str) -> list[int]:
    try:
        with open(path) as file:
            return [int(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def test_kills_lose_no_block_and_change_no_byte(run, tiny_folder, tmp_path):
    folder = str(tiny_folder("llama-tied"))
    whole = [folder, str(tmp_path / "whole"), str(tmp_path / "whole.json")]
    assert run(*whole) == 0
    # 6 sequences: forward through 2 blocks, back through 2, and through what is around them.
    every = lines(f"{whole[1]}.steps")
    assert every == list(range(6 * 5 + 1))
    killed = [folder, str(tmp_path / "killed"), str(tmp_path / "killed.json")]
    for until_step in (9, 8, 8):
        assert run(*killed, until_step=until_step) == -signal.SIGKILL
    assert run(*killed) == 0
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    # Hidden states are kept one by one. On the way back a block's sums are saved at its end: what
    # is run again after a kill is the block at which it was.
    again = lines(f"{killed[1]}.steps")
    forward = [step for step in again if step < 12]
    assert len(forward) <= 12 + 3
    assert len(again) <= 31 + 3 * 7
    assert not list(tmp_path.rglob("activations"))
