"""From an assignment of schemes to a Plan: the costs are the table's."""

import difflib
import math
from collections.abc import Mapping, Sequence

from bitplan.allocator.bound import lower_bound as bound_of
from bitplan.allocator.constraints import Constraints
from bitplan.allocator.hull import Hull
from bitplan.allocator.kept import kept
from bitplan.allocator.problem import Problem, Solution, Status, close_gap
from bitplan.allocator.sublayers import check_whole
from bitplan.errors import InputError, PlanError, SchemeError
from bitplan.schema import Choice, CostTable, Plan, Row, Scheme


def plan_of(
    table: CostTable,
    assignment: Mapping[str, Scheme | str],
    *,
    budget_bytes: int,
    solver: str,
    status: Status | str,
    lower_bound: float | None = None,
    constraints: Constraints | None = None,
) -> Plan:
    """The plan that gives each layer of the table the scheme of the assignment.

    Args:
        table: where bytes and losses come from; the plan has its provenance and order of rows.
        assignment: scheme by layer name, for every layer of the table and no other.
        budget_bytes: the budget it was made for, in bytes of the whole model.
        solver: who chose.
        status: what it says of its choice.
        lower_bound: on the loss of any plan within the budget; None: that of the relaxation, at
            the plan's own bytes where these exceed the budget.
        constraints: that it was made under, to be recorded; whether it keeps to them is not looked
            at.

    Raises:
        InputError: a layer is missing, or not in the table.
        SchemeError: the table does not have the layer in that scheme, or a part of a sublayer is
            left out.
    """
    _check_layers(table, assignment)
    choices = tuple(_choice(row, Scheme.parse(assignment[row.layer.name])) for row in table.rows)
    check_whole(table, {choice.layer.name: choice.scheme for choice in choices})
    size = table.rest_bytes + sum(choice.bytes for choice in choices)
    pairs = _pairs(table, choices)
    loss = math.fsum([*(choice.loss for choice in choices), *pairs])
    if lower_bound is None:
        problem = Problem.of(table, max(budget_bytes, size))
        lower_bound = bound_of(problem, Hull.of(problem))
    lower_bound, gap = close_gap(loss, lower_bound)
    return Plan(
        provenance=table.provenance,
        budget_bytes=budget_bytes,
        bytes=size,
        rest_bytes=table.rest_bytes,
        predicted_kl=loss,
        interactions=math.fsum(pairs),
        lower_bound=lower_bound,
        gap=gap,
        status=status.value if isinstance(status, Status) else status,
        solver=solver,
        constraints=kept(constraints),
        choices=choices,
    )


def solved_plan(
    table: CostTable,
    problem: Problem,
    solution: Solution,
    constraints: Constraints | None = None,
) -> Plan:
    """The plan of a solver's solution, made under constraints."""
    return plan_of(
        table,
        problem.assignment(solution.choice),
        budget_bytes=problem.budget_bytes + problem.rest_bytes,
        solver=solution.solver,
        status=solution.status,
        lower_bound=solution.lower_bound,
        constraints=constraints,
    )


def check_plan(table: CostTable, problem: Problem, plan: Plan) -> None:
    """Raise `PlanError` for a plan of another table, or beyond what the problem allows."""
    ours, theirs = table.provenance, plan.provenance
    if ours.model_digest != theirs.model_digest or plan.schemes.keys() != {
        row.layer.name for row in table.rows
    }:
        raise PlanError(
            f"The plan is of {theirs.model}, digest {theirs.model_digest[:12]}, and the cost table "
            f"of {ours.model}, {ours.model_digest[:12]}. Give the plan of this table."
        )
    choice = problem.choice_of(plan.schemes)
    if choice is None or not problem.fits(choice):
        broken = "its budget, pins or ties"
        if choice is not None and problem.broken(choice):
            broken = ", ".join(problem.broken(choice))
        raise PlanError(
            f"The plan to refine does not keep to {broken}. Solve the table with the same "
            "constraints first."
        )


def _check_layers(table: CostTable, assignment: Mapping[str, Scheme | str]) -> None:
    known = [row.layer.name for row in table.rows]
    extra = sorted(set(assignment).difference(known))
    if extra:
        close = ", ".join(difflib.get_close_matches(extra[0], known, n=3, cutoff=0.0))
        raise InputError(
            f"The assignment names {extra[0]!r}, which is not a layer of the cost table. "
            f"Closest of {len(known)}: {close}."
        )
    missing = [name for name in known if name not in assignment]
    if missing:
        raise InputError(
            f"The assignment has no scheme for {len(missing)} of {len(known)} layers, the first "
            f"being {missing[0]}. Give every layer of the cost table a scheme."
        )


def _pairs(table: CostTable, choices: Sequence[Choice]) -> list[float]:
    """The table's interactions of which the choices have both ends, nats per token each."""
    taken = {(choice.layer.name, choice.scheme) for choice in choices} if table.interactions else ()
    return [
        one.loss
        for one in table.interactions
        if (one.layer, one.scheme) in taken and (one.other, one.other_scheme) in taken
    ]


def _choice(row: Row, scheme: Scheme) -> Choice:
    for cost in row.costs:
        if cost.scheme == scheme:
            return Choice(layer=row.layer, scheme=scheme, bytes=cost.bytes, loss=cost.loss)
    has = ", ".join(str(cost.scheme) for cost in row.costs)
    raise SchemeError(
        f"The layer {row.layer.name} was not measured as {scheme}, only as {has}. "
        f"Choose one of these, or measure again with {scheme} among the schemes."
    )
