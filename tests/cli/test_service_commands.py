"""submit, watch, fetch, jobs, cancel, retry as a user calls them, with slips and trouble."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from bitplan import cli
from bitplan.cli.app import app as cli_app
from bitplan.cli.assignments import assignments
from bitplan.errors import InputError
from bitplan.service.parameters import Compress
from bitplan.service.records import Scope, State
from bitplan.service.settings import ServiceSettings
from running_service import Running, running, small_table
from scripted_service import FAULT

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "service.md").read_text()
FILES = {"costs.json": small_table().to_json().encode(), "model/config.json": b"{}"}


@dataclass(frozen=True, kw_only=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service"), submit_rate="10000/minute") as one:
        yield one


@pytest.fixture
def model(service) -> str:
    return str(service.settings.model_folders[0] / "tiny")


@pytest.fixture
def bitplan(service, tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., Said]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("BITPLAN_SERVER", service.url)
    monkeypatch.setenv("BITPLAN_SERVICE_FOLDER", str(tmp_path / "state"))
    monkeypatch.delenv("BITPLAN_TOKEN", raising=False)
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["bitplan", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return Said(code=int(stop.value.code or 0), out=said.out, err=said.err)

    yield call
    signal.signal(signal.SIGINT, before)


def submitted(bitplan: Callable[..., Said], model: str, *more: object):
    said = bitplan("submit", "allocate", model, "--budget-gb", 0.5, "--json", *more)
    assert said.code == 0, said.err
    return json.loads(said.out)["id"]


def refused(said: Said, *messages: str, code: int = 2) -> None:
    assert said.code == code, said
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    for message in messages:
        assert message in said.err


def test_a_job_from_submission_to_files(bitplan, service, model, tmp_path):
    said = bitplan("submit", "measure", model, "--set", "schemes=int4g32,bf16", "--label", "x")
    assert said.code == 0, said.err
    name = re.search("[0-9a-f]{32}", said.out)[0]
    assert "(x): measure" in said.out
    assert f"Next: bitplan watch {name}" in " ".join(said.out.split())
    job = service.store.jobs.get(name)
    assert job.request.parameters.schemes == ("int4g32", "bf16")
    service.work(job, FILES)
    said = bitplan("watch", name)
    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert "best KL 0.2500, the uniform plan's 0.5000" in words
    assert f"Next: bitplan fetch {name} --out DIR" in words
    assert [line.split()[1] for line in said.err.splitlines()][:2] == ["queued", "running"]
    said = bitplan("watch", name, "--json")
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert said.err == ""
    said = bitplan("fetch", name, "--out", "out", "--json")
    paths = [Path(path) for path in json.loads(said.out)["files"]]
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert bitplan("fetch", name, "--out", "out", "--only", "model").out.startswith("out/model")


def test_a_job_that_fails(bitplan, service, model):
    name = submitted(bitplan, model)
    service.work(service.store.jobs.get(name), {}, FAULT)
    said = bitplan("watch", name)
    assert said.code == 2
    assert "Error: Job" in said.err
    assert "(InfeasibleError): The budget is too small. Raise it." in said.err
    assert "queued" in bitplan("retry", name).out
    is_fault = FAULT.model_copy(update={"is_input": False})
    service.work(service.store.jobs.get(name), {}, is_fault)
    assert bitplan("watch", name).code == 1
    refused(bitplan("fetch", name, "--out", "out"), "made no files: it is failed")


def test_cancelling_and_listing(bitplan, service, model):
    name = submitted(bitplan, model, "--label", "ending")
    assert "cancelled" in bitplan("cancel", name).out
    said = bitplan("watch", name)
    assert said.code == 1
    assert "was cancelled" in said.err
    listed = bitplan("jobs", "--limit", 1)
    assert name in listed.out
    assert "ending" in bitplan("jobs", "--limit", 1, "--json").out
    (job,) = json.loads(bitplan("jobs", "--state", "cancelled", "--limit", 1, "--json").out)
    assert job["id"] == name


def test_a_list_of_jobs_fits_eighty_columns(service, bitplan, model, monkeypatch):
    name = submitted(bitplan, model, "--label", "a")
    assert service.store.jobs.cancel(name)
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = (line for line in bitplan("jobs", "--limit", 1).out.splitlines() if name in line)
    assert line.split()[:3] == [name, "allocate", "cancelled"]
    assert line.rstrip().endswith(f" {Path(model).name}, a")


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["submit", "allocat", "m"], ["Did you mean 'allocate'?"]),
        (["submit", "allocate", "m"], ["needs budget_gb"]),
        (["submit", "describe", "m", "--budget-gb", "1"], ["takes no 'budget_gb'"]),
        (["submit", "measure", "m", "--set", "sequnces=3"], ["Did you mean 'sequences'?"]),
        (["submit", "measure", "m", "--set", "sequences"], ["is not KEY=VALUE"]),
        (["submit", "measure", "m", "--set", "sequences=many"], ["sequences", "'many'"]),
        (["submit", "measure", "m", "--set", "seed=1", "--set", "seed=2"], ["set twice"]),
        (["submit", "measure", "m", "--priority", "11"], ["priority"]),
        (["submit", "measure", "/etc/passwd"], ["Allowed folders"]),
        (["watch", "12"], ["'12' is no job's id"]),
        (["watch", "0" * 32], ["0" * 32]),
        (["fetch", "0" * 32, "--out", "x"], ["0" * 32]),
        (["jobs", "--state", "asleep"], ["state"]),
        (["jobs", "--server", "127.0.0.1:8642"], ["is no address of a service"]),
        (["jobs", "--token-file", "missing"], ["Cannot read missing"]),
    ],
)
def test_slips_are_explained(arguments, messages, bitplan):
    refused(bitplan(*arguments), *messages)


def test_constraints_are_json_or_dotted():
    texts = ['constraints.pins={"a": "int4"}', "constraints.fuse=true", "constraints.ties=a|b,c"]
    given = assignments(Compress, [*texts, "sequences=null", "calibration=7"])
    ties = ["a|b", "c"]
    assert given["constraints"] == {"pins": {"a": "int4"}, "fuse": "true", "ties": ties}
    assert given["sequences"] is None
    assert given["calibration"] == "7"
    for bad in ("constraints.pins=a", "constraints.fuse.x=1", "=1", "constraints.=1"):
        with pytest.raises(InputError):
            assignments(Compress, [*texts[1:2], bad])


def test_a_service_that_is_not_there(bitplan):
    refused(bitplan("jobs", "--server", "http://127.0.0.1:9"), "does not answer", code=1)


def test_a_wrong_token_is_refused_and_not_shown(tmp_path, bitplan):
    with running(tmp_path, token_required=True) as closed:
        refused(bitplan("jobs", "--server", closed.url), "--token-file or BITPLAN_TOKEN")
        (tmp_path / "token").write_text("bpl_wrong\n")
        said = bitplan("jobs", "--server", closed.url, "--token-file", tmp_path / "token")
        refused(said, "--token-file or BITPLAN_TOKEN")
        assert "bpl_wrong" not in said.err
        secret = closed.store.tokens.create("ann", Scope.SUBMIT)[1]
        (tmp_path / "token").write_text(secret + "\n")
        said = bitplan("jobs", "--server", closed.url, "--token-file", tmp_path / "token")
        assert said.code == 0


@pytest.mark.parametrize("verb", ["watch", "submit"])
def test_interrupting_leaves_the_job_running_and_says_so(verb, bitplan, service, model):
    name = submitted(bitplan, model)
    service.take(service.store.jobs.get(name))
    more = ["watch", name] if verb == "watch" else ["submit", "describe", model, "--watch"]
    environment = {**os.environ, "BITPLAN_SERVER": service.url}
    with subprocess.Popen(
        [sys.executable, "-m", "bitplan.cli", *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # its first event: it watches
        assert "queued" in first
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Watching has stopped; the job goes on." in err
    assert "the same command goes on" not in err
    assert "Traceback" not in err
    assert service.store.jobs.get(name).state is State.RUNNING


def test_a_service_that_dies_while_it_is_watched(bitplan, service, model):
    name = submitted(bitplan, model)
    job = service.store.jobs.get(name)

    def restart() -> None:
        time.sleep(0.3)
        service.stop()
        service.work(job, FILES)
        service.start()

    thread = threading.Thread(target=restart)
    thread.start()
    said = bitplan("watch", name)
    thread.join()
    assert said.code == 0, said.err
    assert "succeeded" in said.out


COMMANDS = re.findall(r"^\$ bitplan (.*)$", DOCS, flags=re.MULTILINE)
ANSWERED = [line for line in COMMANDS if line.split()[0] not in ("serve", "worker", "token")]


@pytest.mark.parametrize("line", ANSWERED)
def test_commands_of_the_documentation_do_what_they_say(line, bitplan, service, model):
    name = submitted(bitplan, model)
    files = {**FILES, "plan.json": b"{}"}
    if line.startswith("retry"):
        service.work(service.store.jobs.get(name), files, FAULT)
    elif not line.startswith("cancel"):
        service.work(service.store.jobs.get(name), files)
    words = [word.replace("/srv/models/tiny", model) for word in shlex.split(line)]
    said = bitplan(*(name if word == "JOB" else word for word in words))
    assert said.code == 0, said.err


def test_token_commands_of_the_documentation(bitplan):
    create, listing, revoke = (shlex.split(line) for line in COMMANDS if line.startswith("token"))
    assert bitplan(*create).code == 0
    (token,) = json.loads(bitplan(*listing, "--json").out)
    assert (token["name"], token["scope"]) == ("ann", "submit")
    assert bitplan(*(token["id"] if word == "ID" else word for word in revoke)).code == 0


def parses(words: list[str]) -> None:
    """Raises where a command line has an option that its command has not."""
    app = typer.main.get_command(cli_app)
    command, *arguments = words
    context = typer.Context(app)
    app.get_command(context, command).make_context(command, arguments)


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.split()[0] in ("serve", "worker")])
def test_commands_that_serve_take_the_options_that_are_shown(line):
    parses(shlex.split(line))


def test_the_documentation_lists_all_settings():
    known = {name.upper() for name in ServiceSettings.model_fields}
    assert set(re.findall("BITPLAN_SERVICE_([A-Z_]+)", DOCS)) == known


def test_the_example_of_a_script(service, model, tmp_path):
    """As it stands, in a process of its own; the test does the worker's part."""
    before = {job.id for job in service.store.jobs.list()}

    def work() -> None:
        while not (new := [j for j in service.store.jobs.list() if j.id not in before]):
            time.sleep(0.02)
        service.work(new[0], FILES)

    thread = threading.Thread(target=work)
    thread.start()
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "from_a_script.py", model, "0.000005", "0.00001"],
        env={**os.environ, "BITPLAN_SERVER": service.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    thread.join()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predicted KL") == 2
    assert (tmp_path / "plan-1e-05.json").exists()
