"""Engines: the same results wherever the work is done, whoever dies over it."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from bitplan import measure
from bitplan.calibration import Sizes
from bitplan.errors import EngineError, InputError
from bitplan.sensitivity.engines import ENGINES, check_engine, choose_engine, get_engine
from bitplan.sensitivity.engines.choose import WORTH_STARTING
from bitplan.sensitivity.engines.engine import BYTES_IN_FLIGHT, AbstractEngine, Room
from bitplan.sensitivity.engines.parcel import unwrap, wrap
from bitplan.tensors import load_tensors

DEADLINE_S = 60


@pytest.fixture(scope="module")
def processes() -> Iterator[AbstractEngine]:
    """Two workers, started once: to start one takes seconds."""
    with get_engine("processes", workers=2) as engine:
        yield engine


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_results_come_for_all_tasks(processes):
    expected = sorted(get_engine("serial").map(abs, range(-20, 20)))
    assert sorted(processes.map(abs, range(-20, 20))) == expected
    assert list(processes.map(abs, [])) == []


def test_tasks_are_drawn_when_there_is_room(processes):
    drawn = []

    def tasks() -> Iterator[int]:
        for number in range(30):
            drawn.append(number)
            yield number

    for done, _ in enumerate(processes.map(abs, tasks())):
        assert len(drawn) <= done + 3


def test_bytes_in_flight_are_bounded():
    room = Room(8)
    room.take(BYTES_IN_FLIGHT // 2)
    assert room.is_left
    room.take(BYTES_IN_FLIGHT)
    assert not room.is_left  # one may be larger than all that is left
    room.give(BYTES_IN_FLIGHT)
    assert room.is_left


def test_an_error_of_a_task_is_raised_and_the_engine_goes_on(processes):
    with pytest.raises(ValueError, match="invalid literal"):
        list(processes.map(int, ["1", "x"]))
    assert sorted(processes.map(int, ["1", "2", "3"])) == [1, 2, 3]


def test_results_that_nobody_waited_for_are_of_no_other_call(processes):
    with pytest.raises(ValueError, match="must be non-negative"):
        list(processes.map(time.sleep, [0.3, -1]))
    assert sorted(processes.map(abs, [-1, -2])) == [1, 2]


def test_what_a_killed_worker_was_about_is_done_again(processes, caplog):
    assert len(list(processes.map(time.sleep, [0.2] * 4))) == 4
    before = children()
    results = processes.map(time.sleep, [0.5] * 6)
    next(results)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert len(list(results)) == 5
    assert len(set(children()) - set(before)) == 2
    assert "exit code -9); its task is done again" in caplog.text


def test_a_task_that_kills_every_worker_is_given_up(processes):
    with pytest.raises(EngineError, match=r"3 worker processes died.*exit code -9.*fewer workers"):
        list(processes.map(signal.raise_signal, [signal.SIGKILL]))
    assert list(processes.map(abs, [-1])) == [1]


def test_a_table_is_the_same_from_processes_of_which_one_is_killed(tiny_model, tmp_path):
    # Conv1D: the weights are transposed views. float32, kept in fp32: what is decoded is stored.
    model, killed = tiny_model("gpt2"), []
    settings = {
        "sizes": Sizes(calibration=8, search=4, held_out=4, length=16),
        "schemes": ["int2", "int4", "int8s", "fp32"],
    }

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "measure" and not killed:
            child = multiprocessing.active_children()[0]
            child.kill()
            killed.append(child)

    work = {name: tmp_path / name for name in ("serial", "processes")}
    tables = [
        measure(model, workdir=work["serial"], engine="serial", **settings),
        measure(
            model,
            workdir=work["processes"],
            engine="processes",
            workers=2,
            progress=kill,
            **settings,
        ),
    ]
    assert killed
    assert tables[0].to_json() == tables[1].to_json()
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in work.values()
    ]
    assert files[0] == files[1]
    for path in work["serial"].rglob("fp32.safetensors"):
        kept = load_tensors(path)
        assert kept is not None
        assert kept["weight"].any()


PARENT = """
import signal, sys, time
from bitplan.sensitivity.engines import get_engine

# A shell starts what it leaves in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with get_engine("processes", workers=1) as engine:
    for _ in engine.map(time.sleep, [0, 0, 1000, 1000]):
        print(sys.argv[1], flush=True)
"""


def blocks_interrupts(process: psutil.Process) -> bool:
    """As far as the system tells: Linux does."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.is_file():
        return True
    blocked = re.search(r"SigBlk:\s*([0-9a-f]+)", status.read_text())
    assert blocked is not None
    return bool(int(blocked[1], 16) & 1 << (signal.SIGINT - 1))


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_run_nothing_of_its_script(kill):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, "here"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["here\n"] * 2
    started = psutil.Process(parent.pid).children()
    workers = [process for process in started if "spawn_main" in " ".join(process.cmdline())]
    assert workers
    assert all(map(blocks_interrupts, workers))
    if kill == signal.SIGINT:
        os.killpg(parent.pid, kill)  # as a terminal does: to all of them
    else:
        parent.kill()
    rest, errors = parent.communicate(timeout=DEADLINE_S)
    assert rest == ""
    assert errors.count("Traceback") == (kill == signal.SIGINT)  # the parent's own
    _, alive = psutil.wait_procs(started, timeout=DEADLINE_S)
    assert not alive


def test_a_parcel_holds_the_elements_of_a_view_alone():
    whole = torch.arange(100_000, dtype=torch.float32)
    views = {
        "rows": whole[64:128].view(8, 8),
        "turned": whole[:6].view(2, 3).t(),
        "bits": whole[:4].bfloat16(),
        "one": torch.tensor(True),
        "none": torch.zeros(0, 3),
    }
    parcel = wrap(views)
    assert len(parcel) < 5000
    found = unwrap(parcel)
    for name, view in views.items():
        assert torch.equal(found[name], view)
        assert found[name].dtype == view.dtype
        assert found[name].is_contiguous()
        assert found[name].data_ptr() % 64 == 0


def test_processes_are_chosen_for_much_work_and_several_cores_alone():
    assert choose_engine(WORTH_STARTING, workers=4)[0] == "processes"
    assert choose_engine(WORTH_STARTING - 1, workers=4)[0] == "serial"
    short = {"largest": 500_000_000, "memory_bytes": 24_000_000_000}
    assert choose_engine(WORTH_STARTING, workers=4, **short)[0] == "serial"
    assert choose_engine(WORTH_STARTING, workers=1, **short)[0] == "serial"
    few = {"largest": 30_000_000, "memory_bytes": 24_000_000_000}
    assert choose_engine(WORTH_STARTING, workers=4, **few)[0] == "processes"
    name, why = choose_engine(WORTH_STARTING, workers=1)
    assert (name, why) == ("serial", "There is one core to work on.")


@pytest.mark.parametrize("name", ["rays", "http://host:80", "ray://", "host:", ":80", "", "a b:1"])
def test_an_unknown_engine_is_refused(name):
    with pytest.raises(InputError, match=r"There is no engine .*auto, serial, processes, ray"):
        check_engine(name)


@pytest.mark.parametrize("name", list(ENGINES))
def test_workers_must_be_some(name):
    with pytest.raises(InputError, match="workers is 0"):
        check_engine(name, 0)


@pytest.mark.parametrize("name", ["ray", "ray://head:10001", "10.0.0.1:6379", "[::1]:6379"])
def test_ray_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # Python's own way to say that there is none
    with pytest.raises(EngineError, match=r"pip install 'bitplan\[ray\]'"):
        check_engine(name)
