"""Lower the KL measured on the whole model, within a budget of bytes and one of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitplan.allocator.constraints import Constraints, leaving_out
from bitplan.allocator.pins import Pins
from bitplan.allocator.plan import plan_of
from bitplan.allocator.problem import Problem
from bitplan.allocator.search.evaluator import Evaluator
from bitplan.allocator.search.evopress import evopress
from bitplan.allocator.search.informed import FEW, informed
from bitplan.allocator.search.ledger import Ledger, Spent
from bitplan.allocator.search.proposals import (
    known_choice,
    most_proposals,
    proposals,
    uniforms,
)
from bitplan.allocator.search.quest import Quest, groups_of
from bitplan.errors import InputError
from bitplan.progress import Progress, quiet
from bitplan.schema import Budget, CostTable, Plan

INTERRUPTED = "The search was interrupted: run it again to go on from there."
"""What the status of a plan says then."""

SEARCHES = {"auto": informed, "evopress": evopress}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best plan that a search found, and what it took.

    `kl` and `start_kl` are on the tokens of the search: of the plan, and of that to improve.
    `ranked` are the plans given to begin with that were measured, the lowest KL first on the
    sequences that all of them were measured on.
    """

    plan: Plan
    kl: float
    start_kl: float
    tokens: int
    measured: int
    accepted: int
    interrupted: bool
    ranked: tuple[Plan, ...]


def search(
    table: CostTable,
    starts: Sequence[Plan],
    evaluator: Evaluator,
    *,
    tokens: int,
    others: Sequence[Plan] = (),
    method: str = "auto",
    propose: bool = True,
    pins: Pins | None = None,
    fuse: bool = False,
    constraints: Constraints | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> Found:
    """The best plan found on the model, from several plans to begin with.

    An interrupt ends the search, and what it has found so far is returned.

    Args:
        table: what every layer loses in every scheme.
        starts: plans to begin with, one or more; the first gives the budget and what is left out,
            and is what is returned where nothing is better by more than noise.
        evaluator: measures plans, always on the same tokens.
        tokens: how many may go through the model; a pass forward and back counts three times.
        others: more plans to begin with, tried where the tokens allow it.
        method: a name of `SEARCHES`.
        propose: whether the table's next best plans are tried beside those given, as many as the
            tokens allow; a uniform one always is.
        pins: as for `solve`.
        fuse: as for `solve`.
        constraints: as for `solve`.
        seed: of what is drawn at random.
        progress: told of the tokens, and of the best KL beside that of the uniform plan.

    Raises:
        PlanError: a start of another model, or one that does not keep to the constraints.
        InputError: an unknown method.
    """
    check_search(method)
    # Layers are exchanged one by one, and what is left out are whole sublayers.
    given = leaving_out(Constraints.of(constraints, pins=pins, fuse=fuse), starts[0])
    # How layers interact is what the model itself tells.
    problem = Problem.of(table, starts[0].budget_bytes, constraints=given).alone()
    ledger = Ledger(problem=problem, evaluator=evaluator, limit=tokens, progress=progress)
    first_look = _first_look(evaluator, method)
    quest = Quest(
        problem=problem,
        ledger=ledger,
        starts=proposals(
            table,
            problem,
            starts,
            others,
            given,
            most=most_proposals(tokens, first_look, evaluator.tokens_each) if propose else 0,
        ),
        groups=groups_of(problem, [row.layer for row in table.rows]),
        random=np.random.default_rng(seed),
    )
    for plan in uniforms(table, Budget(bytes=starts[0].budget_bytes), given)[:1]:
        ledger.yardstick = known_choice(problem, plan)
    interrupted = False
    try:
        progress("refine", 0, tokens)
        SEARCHES[method](quest)
    except Spent:
        pass
    except KeyboardInterrupt:
        interrupted = True
    progress("refine", tokens, tokens)
    ranked = _ranked(quest, [*starts, *others], first_look)
    return _found(table, starts[0], given, quest, interrupted, ranked)


def check_search(method: str) -> None:
    """Raise `InputError` for a search that there is not."""
    if method not in SEARCHES:
        raise InputError(f"There is no search {method!r}. Choose one of {', '.join(SEARCHES)}.")


def _first_look(evaluator: Evaluator, method: str) -> int:
    """Sequences that a method measures every proposal on."""
    return evaluator.sequences if method == "evopress" else max(1, evaluator.sequences // FEW)


def _ranked(quest: Quest, plans: Sequence[Plan], sequences: int) -> tuple[Plan, ...]:
    """Those that were measured on the first so many sequences, the lowest mean KL there first."""
    keys = [known_choice(quest.problem, plan).tobytes() for plan in plans]
    found = [
        (float(kl[:sequences].mean()), plan)
        for key, plan in zip(keys, plans, strict=True)
        if (kl := quest.ledger.kl_of.get(key)) is not None
    ]
    measured = [(kl, plan) for kl, plan in found if not np.isnan(kl)]
    return tuple(plan for _, plan in sorted(measured, key=lambda pair: pair[0]))


def _found(
    table: CostTable,
    start: Plan,
    constraints: Constraints,
    quest: Quest,
    interrupted: bool,
    ranked: tuple[Plan, ...],
) -> Found:
    ledger, plan = quest.ledger, start
    kl = ledger.known(quest.incumbent).mean()
    start_kl = ledger.known(quest.starts[0]).mean()
    if (quest.incumbent != quest.starts[0]).any():
        status = (
            f"Refined on the model: {len(ledger.kl_of)} plans tried with {ledger.spent:,} tokens, "
            f"the measured KL lowered from {start_kl:.3g} to {kl:.3g} on the search tokens."
        )
        plan = plan_of(
            table,
            quest.problem.assignment(quest.incumbent),
            budget_bytes=start.budget_bytes,
            solver="search",
            status=status,
            lower_bound=start.lower_bound,
            constraints=constraints,
        )
    if interrupted:
        plan = plan.model_copy(update={"status": f"{plan.status} {INTERRUPTED}"})
    return Found(
        plan=plan,
        kl=float(kl),
        start_kl=float(start_kl),
        tokens=ledger.spent,
        measured=len(ledger.kl_of),
        accepted=quest.accepted,
        interrupted=interrupted,
        ranked=ranked,
    )
