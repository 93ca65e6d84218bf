"""Plans measured on the model itself, and the best of them."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitplan.allocator import plan_of, search, solve
from bitplan.allocator.search import INTERRUPTED, uniforms
from bitplan.calibration import TokenSets, tokens_digest
from bitplan.errors import InfeasibleError, ModelError
from bitplan.models import Inputs
from bitplan.pipeline.evaluator import ModelEvaluator, lessons_of
from bitplan.pipeline.judge import Judge
from bitplan.pipeline.rivals import best_rival, rivals
from bitplan.pipeline.settings import Settings
from bitplan.pipeline.workspace import Workspace
from bitplan.progress import Progress
from bitplan.schema import Budget, CostTable, Evidence, Measured, Plan
from bitplan.sensitivity import Meter


def verified(
    workspace: Workspace,
    table: CostTable,
    solved: Plan,
    meter: Meter,
    tokens: TokenSets,
    settings: Settings,
    progress: Progress,
) -> Plan:
    """The best measured of the solved, the given, the refined, the uniform and one rival's plans.

    And of the solved plan that leaves nothing out, where another does: what one table adds up of
    errors of weights and of sublayers left out are guesses of different kinds.

    Each of them takes a pass over the held-out tokens, so of the rivals (`rivals`) only the best is
    judged: by the search tokens where there was a search, else by the table.
    """
    sets: dict[str, Tensor | Inputs] = {"search": tokens.search, "held_out": tokens.held_out}
    refine_tokens = settings.tokens_to_refine(tokens)
    refines = refine_tokens >= 2 * Inputs.of(tokens.search).tokens
    if refines and settings.search != "evopress":  # which takes no gradient
        sets["calibration"] = lessons_of(tokens)
    judge = Judge(workspace=workspace, meter=meter, tokens=sets, progress=progress)
    found, interrupted = None, False
    # While the weights are the model's own.
    others = rivals(workspace, table, solved, meter, tokens, settings, progress)
    with judge.borrowed():
        plans = {"solved": solved}
        if (whole := _whole(table, solved, settings)) is not None:
            plans["with nothing left out"] = whole
        given = [_recosted(plan, table, solved.budget_bytes) for plan in settings.starts]
        for number, plan in enumerate(given, start=1):
            plans["given" if len(given) == 1 else f"given {number}"] = plan
        if refines:
            found = search(
                table,
                [solved, *(plan for plan in given if _left_out(plan) == _left_out(solved))],
                ModelEvaluator(judge=judge, table=table),
                tokens=refine_tokens,
                others=others,
                method=settings.search,
                constraints=settings.all_constraints,
                seed=settings.seed,
                progress=progress,
            )
            plans["refined" if found.plan.solver == "search" else "solved"] = found.plan
            interrupted = found.interrupted
        budget = Budget(bytes=solved.budget_bytes)
        for plan in uniforms(table, budget, settings.all_constraints):
            plans[plan.solver] = plan
        rival = best_rival(others, found)
        if rival is not None:
            plans[rival.solver] = rival
        best = _best(plans, judge)
    if interrupted and INTERRUPTED not in best.status:
        best = best.model_copy(update={"status": f"{best.status} {INTERRUPTED}"})
    return best


def _whole(table: CostTable, solved: Plan, settings: Settings) -> Plan | None:
    """The table's best plan that leaves nothing out; None: so does the solved one, or none fits."""
    if not _left_out(solved):
        return None
    given = replace(settings.all_constraints, left_out=frozenset())
    budget = Budget(bytes=solved.budget_bytes)
    try:
        plan = solve(table, budget, constraints=given)
    except InfeasibleError:
        return None
    return None if _left_out(plan) == _left_out(solved) else plan


def _left_out(plan: Plan) -> set[str]:
    return {name for name, scheme in plan.schemes.items() if scheme.is_none}


def _recosted(plan: Plan, table: CostTable, budget_bytes: int) -> Plan:
    """The user's plan with what this table says of it."""
    return plan_of(
        table,
        plan.schemes,
        budget_bytes=budget_bytes,
        solver="given",
        status=f"Given to begin with; its solver was {plan.solver}.",
    )


def _best(plans: Mapping[str, Plan], judge: Judge) -> Plan:
    measured = {}
    every = judge.measure_many([plan.schemes for plan in plans.values()], "held_out")
    for (name, plan), found in zip(plans.items(), every, strict=True):
        if not found.is_finite:  # nothing to rank
            continue
        measured[name] = Measured(
            name=name,
            bytes=plan.bytes,
            kl=found.mean,
            standard_error=found.standard_error,
            perplexity=found.perplexity,
        )
    if not measured:
        raise ModelError(
            f"Under every plan tried ({', '.join(plans)}) the model's outputs are not finite. "
            "Raise the budget, or load the model in bfloat16 or float32."
        )
    ranked = sorted(measured.values(), key=lambda one: one.kl)
    best = ranked[0]
    uniforms = [one for one in ranked if one.name.startswith("uniform")]
    held_out = judge.tokens["held_out"]
    evidence = Evidence(
        tokens=Inputs.of(held_out).tokens,
        tokens_digest=tokens_digest(held_out),
        reference_perplexity=judge.reference("held_out").perplexity,
        plan=best,
        uniform=uniforms[0] if uniforms else None,
        others=tuple(one for one in measured.values() if one not in (best, *uniforms[:1])),
    )
    return plans[best.name].model_copy(update={"evidence": evidence})
