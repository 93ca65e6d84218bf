"""A plan seen from its table: as a choice of the problem that it answers."""

import numpy as np

from bitplan.allocator.constraints import Constraints, leaving_out
from bitplan.allocator.interactions import additive_only
from bitplan.allocator.kept import recorded_constraints
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem
from bitplan.errors import PlanError
from bitplan.schema import CostTable, Plan


def chosen(
    table: CostTable,
    plan: Plan,
    *,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
) -> tuple[Problem, np.ndarray]:
    """The problem of the table at the plan's budget, and the plan's choice [rows] in it.

    The budget is the plan's own bytes where these are more. What the plan leaves out stays left
    out, and nothing else is: whether to is a matter of whole sublayers, not of layers.

    Args:
        table: whose bytes and losses count, also where the plan states others.
        plan: of the same model.
        pins: those that the plan was solved with: what they forbid is no alternative.
        fuse: whether it was solved with fused layers.
        constraints: all that it was solved with. Where none of these three is given, those that the
            plan records.

    Raises:
        PlanError: the plan is of another model, or not one that the constraints allow.
        InputError: a pin that cannot be used, or a layer or scheme that the table does not have.
    """
    additive_only(table, "Explaining a plan")
    made, known = plan.provenance, table.provenance
    if made.model_digest != known.model_digest:
        raise PlanError(
            f"The plan is of {made.model} (digest {made.model_digest[:12]}), the cost table of "
            f"{known.model} (digest {known.model_digest[:12]}). Give the table that the plan was "
            "solved from."
        )
    # Refuses what the table does not have, in its own words.
    again = plan_of(
        table, plan.schemes, budget_bytes=plan.budget_bytes, solver="", status="", lower_bound=0.0
    )
    budget_bytes = max(plan.budget_bytes, again.bytes)
    given = Constraints.of(constraints, pins=pins, fuse=fuse)
    if given == Constraints():
        given = recorded_constraints(plan)
    given = leaving_out(given, plan)
    problem = Problem.of(table, budget_bytes, constraints=given)
    choice = [_column(problem, plan, row) for row in range(len(problem.layers))]
    return problem, np.array(choice)


def _column(problem: Problem, plan: Plan, row: int) -> int:
    names = problem.layers[row]
    schemes = {str(plan.schemes[name]): plan.schemes[name] for name in names}
    if len(schemes) > 1:
        raise PlanError(
            f"The plan gives the fused layers {', '.join(names)} different schemes: "
            f"{', '.join(schemes)}. It was not solved with fused layers: leave fuse out."
        )
    [(name, scheme)] = schemes.items()
    column = problem.schemes.index(scheme)
    if not problem.legal[row, column]:
        legal = np.flatnonzero(problem.legal[row]).tolist()
        raise PlanError(
            f"The plan gives {names[0]} the scheme {name}, but it may only take "
            f"{', '.join(str(problem.schemes[each]) for each in legal)}. Give the pins and fuse "
            "that the plan was solved with, or none for those that it records."
        )
    return column
