"""What each kind of job does, in its own process: the library's functions, and what is handed in.

A stage hands in its artefacts as soon as it has them, the one that says that it is through last; a
later attempt begins with the stage that is not. Within a stage the work folder has what was done.
"""

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from bitplan.errors import PlanError
from bitplan.export import save
from bitplan.models import describe, find_tokenizer, load_model
from bitplan.pipeline import measure, run, run_apply
from bitplan.report import write_report
from bitplan.schema import Plan
from bitplan.service.parameters import Allocate, Apply, Compress, Describe, Measure
from bitplan.service.work.source import source_of, text_of
from bitplan.service.work.task import Desk
from bitplan.service.work.validate import arguments

MODEL = "model"
"""Of the names of a checkpoint's files the folder."""


def run_task(desk: Desk) -> None:
    """Do what a job asks for. Raises `InputError`, and whatever the library raises."""
    shutil.rmtree(desk.task.out, ignore_errors=True)
    desk.task.out.mkdir(parents=True)
    STAGES[desk.task.parameters.kind](desk.task.parameters, desk)
    shutil.rmtree(desk.task.out, ignore_errors=True)


def _describe(asked: Describe, desk: Desk) -> None:
    source = source_of(asked.model, desk)
    desk("load", 0, 1)
    model = load_model(source, dtype=asked.dtype)
    description = describe(model, context=asked.context, batch=asked.batch)
    desk("load", 1, 1)
    desk.put("description.json", (description.model_dump_json(indent=2) + "\n").encode())


def _measure(asked: Measure, desk: Desk) -> None:
    source, text = _found(asked, desk)
    settings = arguments(asked, workdir=desk.task.workdir, **text)
    table = measure(source, progress=desk, **settings)
    desk.put("costs.json", table.to_json().encode())


def _allocate(asked: Allocate, desk: Desk) -> None:
    if desk.path("plan.json") is not None:
        return
    source, text = _found(asked, desk)
    settings = arguments(asked, workdir=desk.task.workdir, **text)
    outcome = run(source, asked.budget_gb, progress=desk, **settings)
    desk.put("costs.json", outcome.table.to_json().encode())
    write_report(desk.task.out / "report.html", outcome.plan, outcome.table)
    desk.put("report.html", desk.task.out / "report.html")
    desk.put("plan.json", outcome.plan.to_json().encode())


def _compress(asked: Compress, desk: Desk) -> None:
    _allocate(asked, desk)
    place = desk.path("plan.json")
    assert place is not None
    _save_applied(Plan.load(place), asked, desk)


def _apply(asked: Apply, desk: Desk) -> None:
    if asked.plan not in desk.shelf:
        raise PlanError(f"There is no plan {asked.plan} here. See the list of plans.")
    _save_applied(Plan.load(desk.shelf.path(asked.plan)), asked, desk)


def _save_applied(plan: Plan, asked: Apply | Compress, desk: Desk) -> None:
    source, text = _found(asked, desk)
    applied = run_apply(
        source,
        plan,
        workdir=desk.task.workdir,
        effort=asked.effort,
        tune_epochs=asked.tune_epochs,
        block_epochs=asked.block_epochs,
        block_window=asked.block_window,
        progress=desk,
        **text,
    )
    for name, record in (("tuning", applied.tuning), ("blocks", applied.blocks)):
        if record is not None:
            desk.put(f"{name}.json", (record.model_dump_json(indent=2) + "\n").encode())
    folder = desk.task.out / MODEL
    desk("save", 0, 1)
    save(applied.model, folder, plan, tokenizer=text.get("tokenizer") or find_tokenizer(source))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: path.name == "config.json"):  # which names the rest
        desk.put(f"{MODEL}/{file.relative_to(folder).as_posix()}", file)
    desk("save", 1, 1)


def _found(asked: Measure | Apply, desk: Desk) -> tuple[str, dict[str, Any]]:
    source = source_of(asked.model, desk)
    return source, text_of(asked.model, asked.calibration, desk)


STAGES: Mapping[str, Callable[..., None]] = {
    "describe": _describe,
    "measure": _measure,
    "allocate": _allocate,
    "compress": _compress,
    "apply": _apply,
}
