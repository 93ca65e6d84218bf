"""What the solver's process does: tables to plans and frontiers. JSON comes in and goes out.

Tables that were parsed are kept, and so are the problems that they make under constraints: moving a
budget then costs the search alone. Knows no tensors, so the process is small.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from bitplan.allocator import Constraints, frontier, uniform
from bitplan.allocator.plan import solved_plan
from bitplan.allocator.solvers import check_solver, choose_solver, run_solver
from bitplan.allocator.task import Task
from bitplan.errors import InputError, PlanError, TableError
from bitplan.schema import Budget, CostTable, Plan
from bitplan.schema.artefact import digest_of
from bitplan.service.constraints import constraints_of
from bitplan.service.parameters import Constrained

TABLES_KEPT = 8
TASKS_KEPT = 32
MOST_ROWS = 20_000
"""Of a table: the largest models there are have a few thousand layers."""

MOST_COSTS = 500_000
"""Of a table, in all rows."""


def ready() -> bool:
    """That the process has started and imported what it needs."""
    return True


def solve_plan(
    path: str, budget_gb: float, constraints: str, solver: str, time_limit_s: float, against: str
) -> tuple[str, int | None]:
    """A plan's JSON and how many layers another plan, of a file, gives another scheme.

    `path` is of a table, `constraints` the JSON of `Constrained`, `against` a path or empty.
    """
    plan = _solve(path, budget_gb, constraints, solver, time_limit_s)
    changes = None
    if against:
        old = _plan(against).schemes
        changes = sum(old.get(name) != scheme for name, scheme in plan.schemes.items())
    return _compact(plan), changes


def solve_frontier(path: str, points: int, constraints: str, time_limit_s: float) -> str:
    """The curve of a table, and the uniform plans, as JSON: bytes, loss, bits per weight."""
    table, given = _table(path), _constraints(constraints)
    weights = sum(row.layer.parameters for row in table.rows if not row.layer.is_cache)
    plans = frontier(table, points=points, constraints=given, time_limit_s=time_limit_s)
    content = {
        "points": [
            {"bytes": plan.bytes, "loss": plan.predicted_kl, "bits": _bits(plan, weights)}
            for plan in plans
        ],
        "uniform": [
            {
                "scheme": plan.solver.removeprefix("uniform "),
                "bytes": plan.bytes,
                "loss": plan.predicted_kl,
            }
            for plan in reversed(uniform(table, constraints=given))
        ],
    }
    return json.dumps(content)


def check_table(path: str) -> int:
    """How many layers an uploaded table has. Raises `TableError` for one that cannot be used."""
    text = _read(path, TableError)
    _check_size(text)
    return len(CostTable.from_json(text).rows)


def check_plan(path: str) -> int:
    """How many layers an uploaded plan has. Raises `PlanError`."""
    # Before it becomes many objects; a layer names its scheme once, and constraints may name some.
    if _is_beyond(_read(path, PlanError), '"scheme"', 2 * MOST_ROWS):
        raise PlanError(f"The plan has more than the {MOST_ROWS:,} layers that this server takes.")
    return len(_plan(path).choices)


def summary(path: str) -> str:
    """What a list of tables says of one, as JSON."""
    table = _table(path)
    return json.dumps({"model": table.provenance.model, "layers": len(table.rows)})


def differences(a: str, b: str) -> str:
    """What two plans give a layer each where it is not the same, as JSON. Paths, or JSON itself."""
    one, other = (_plan(each) if _is_path(each) else Plan.from_json(each) for each in (a, b))
    theirs = {choice.layer.name: choice for choice in other.choices}
    if theirs.keys() != one.schemes.keys():
        raise PlanError("The plans are of different layers. Compare two plans of one model.")
    pairs = [(mine, theirs[mine.layer.name]) for mine in one.choices]
    content = {
        "bytes": [one.bytes, other.bytes],
        "loss": [one.predicted_kl, other.predicted_kl],
        "changed": [
            {
                "layer": mine.layer.name,
                "a": str(mine.scheme),
                "b": str(its.scheme),
                "bytes_a": mine.bytes,
                "bytes_b": its.bytes,
                "loss_a": mine.loss,
                "loss_b": its.loss,
            }
            for mine, its in pairs
            if mine.scheme != its.scheme
        ],
    }
    return json.dumps(content)


def measured(paths: list[str]) -> str:
    """What was measured of the plans in files: bytes, KL and name, each once, as JSON."""
    found: dict[tuple[int, float], dict[str, Any]] = {}
    for path in paths:
        evidence = _plan(path).evidence
        if evidence is None:
            continue
        for one in (evidence.plan, evidence.uniform, *evidence.others):
            if one is not None:
                key = one.bytes, one.kl
                found.setdefault(key, {"bytes": one.bytes, "kl": one.kl, "name": one.name})
    return json.dumps(sorted(found.values(), key=lambda one: (one["bytes"], one["kl"])))


def _solve(path: str, budget_gb: float, constraints: str, solver: str, limit_s: float) -> Plan:
    check_solver(solver, limit_s)
    task = _task(path, constraints)
    total = Budget(gb=budget_gb).total_bytes
    problem = replace(task.problem, budget_bytes=total - task.table.rest_bytes)
    name = choose_solver(problem)[0] if solver == "auto" else solver
    solution = run_solver(name, task.table, task.rules, problem, task.hull, time_limit_s=limit_s)
    return solved_plan(task.table, problem, solution, task.constraints)


@lru_cache(maxsize=TABLES_KEPT)
def _table(path: str) -> CostTable:
    return CostTable.from_json(_read(path, TableError))


@lru_cache(maxsize=TASKS_KEPT)
def _task(path: str, constraints: str) -> Task:
    # The largest budget there is: that of each plan takes its place.
    table = _table(path)
    largest = sum(max(cost.bytes for cost in row.costs) for row in table.rows) + table.rest_bytes
    return Task.of(
        table,
        Budget(bytes=max(largest, 1)),
        constraints_of(Constrained.model_validate_json(constraints)),
    )


@lru_cache(maxsize=64)
def _plan(path: str) -> Plan:
    return Plan.from_json(_read(path, PlanError))


def _constraints(text: str) -> Constraints:
    return constraints_of(Constrained.model_validate_json(text))


def _check_size(text: str) -> None:
    """Raise for a table of far too many layers before it becomes many objects."""
    if _is_beyond(text, '"costs"', MOST_ROWS) or _is_beyond(text, '"scheme"', 2 * MOST_COSTS):
        raise TableError(
            f"The table has more than the {MOST_ROWS:,} layers or {MOST_COSTS:,} costs that this "
            "server solves. Use bitplan solve on a machine of your own."
        )


def _is_beyond(text: str, part: str, most: int) -> bool:
    """Whether a part occurs more often than that."""
    at = -1
    for _ in range(most + 1):
        at = text.find(part, at + 1)
        if at < 0:
            return False
    return True


def _read(path: str, error: type[InputError]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"That is not UTF-8 text ({cause.reason}). Send what bitplan wrote.") from None


def _is_path(text: str) -> bool:
    return not text.lstrip().startswith("{")


def _bits(plan: Plan, weights: int) -> float:
    """Bits per weight of what has schemes, caches apart."""
    size = sum(choice.bytes for choice in plan.choices if not choice.layer.is_cache)
    return 8 * size / max(weights, 1)


def _compact(plan: Plan) -> str:
    content = plan.model_dump(mode="json")
    content["digest"] = digest_of(content)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
