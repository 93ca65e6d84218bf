"""The default search: where the plan stands, the model itself says what every change is worth.

One pass forward and back at the incumbent gives, for every row and scheme, the change of the KL to
first order; the table gives the second. What the search believes of the KL (`Surrogate`) takes that
in, beside every plan that was measured; it is solved again for whole plans within a trust region,
and the best of these that the measured KL bears out is where the next pass is made. The region
grows when that works and shrinks when it does not (Conn, Gould and Toint, 2000, "Trust-Region
Methods").
"""

import numpy as np

from bitplan.allocator.search.evopress import evolve
from bitplan.allocator.search.exchanges import exchanged, exchanges
from bitplan.allocator.search.paired import difference
from bitplan.allocator.search.quest import Quest
from bitplan.allocator.search.stages import Stage, survivor, unique
from bitplan.allocator.search.surrogate import Surrogate
from bitplan.allocator.search.trust_region import solve_near

FIRST_SHARE = 1 / 4
"""Of the rows, how many may change at first."""

GROW, SHRINK = 1.5, 1 / 3
"""What the region is multiplied by."""

DRAWS = 1
"""Thompson draws among the candidates of a round."""

DRIFT = 0.2
"""Share of the first uncertainty that comes back when the incumbent moves."""

RESTARTS = 1
"""How often the search begins anew around one incumbent, its beliefs shaken."""

DOUBT = 0.5
"""Standard deviation of the second-order term, as a share of it."""

FEW = 4
"""All sequences over those of the first stage of a selection."""


def informed(quest: Quest) -> None:
    """Until the tokens are spent; when nothing of this helps any more, by evolution."""
    ledger, problem = quest.ledger, quest.problem
    few = range(max(1, ledger.evaluator.sequences // FEW))
    # The last stage is where the best of the first is accepted, or not.
    stages = [Stage(sequences=few, survivors=1)]
    quest.accept(survivor(ledger, unique(quest.starts), stages))
    ledger.kl([quest.incumbent], ledger.everything)
    surrogate = Surrogate.of(problem, quest.groups)
    learn_from(quest, surrogate, [choice for choice, _ in ledger.measured()])
    first = max(2.0, FIRST_SHARE * len(problem.loss))
    radius, fresh, restarts = first, True, 0
    while restarts <= RESTARTS:
        if fresh:
            learn_changes(quest, surrogate)
        candidates = [c for c in proposed(quest, surrogate, radius) if (c != quest.incumbent).any()]
        fresh = False
        if candidates:
            winner = survivor(ledger, candidates, stages)
            learn_from(quest, surrogate, candidates)
            fresh = quest.accept(winner)
        if fresh:
            radius, restarts = min(radius * GROW, len(problem.loss)), 0
            surrogate.drift(DRIFT)
        elif (radius := radius * SHRINK) < 1 or not candidates:
            # What is believed is doubted, so that what is drawn differs more.
            radius, restarts = first, restarts + 1
            surrogate.drift(1.0)
    evolve(quest)


def proposed(quest: Quest, surrogate: Surrogate, radius: float) -> list[np.ndarray]:
    """Whole plans around the incumbent that the surrogate holds for better, each once."""
    problem, around, loss = quest.problem, quest.incumbent, surrogate.loss()
    sizes = [max(1, round(radius * share)) for share in (1, 1 / 3)]
    found = [solve_near(problem, loss, around, size) for size in sizes]
    found += [
        solve_near(problem, surrogate.draw(quest.random), around, sizes[0]) for _ in range(DRAWS)
    ]
    ranked = exchanges(problem, loss, around)
    found.append(exchanged(around, ranked[: max(1, sizes[0] // 2)]))
    return unique([choice for choice in found if problem.fits(choice)])


def learn_changes(quest: Quest, surrogate: Surrogate) -> None:
    """Take in what the gradient at the incumbent says of every single change.

    A row's second-order term is 1/2 dW' H dW with dW between two errors; rounded apart, these have
    little to do with each other, and it is the sum of what the table says of both.
    """
    ledger, problem, around = quest.ledger, quest.problem, quest.incumbent
    if np.isinf(ledger.known(around)).any():
        return  # a KL that is not finite has no gradient
    slopes = ledger.slopes(around, lessons := quest.next_lessons())
    if slopes is None:
        return
    by_sequence = np.full((len(lessons), *problem.loss.shape), np.nan)
    for row, names in enumerate(problem.layers):
        for column in np.flatnonzero(problem.legal[row]):
            scheme = problem.schemes[column]
            if all(scheme in slopes.get(name, ()) for name in names):
                by_sequence[:, row, column] = sum(slopes[name][scheme] for name in names)
    slope, count = by_sequence.mean(axis=0), len(by_sequence)
    # One sequence tells nothing of how sequences differ: by as much as there is, say.
    error = by_sequence.std(axis=0, ddof=1) / count**0.5 if count > 1 else np.abs(slope)
    curvature = problem.loss + problem.at(around, problem.loss)[:, None]
    surrogate.see_changes(around, slope + curvature, np.hypot(error, DOUBT * curvature))


def learn_from(quest: Quest, surrogate: Surrogate, candidates: list[np.ndarray]) -> None:
    """Take in candidates of this round, as far as each was measured."""
    for choice in candidates:
        kl, before = quest.ledger.known(choice), quest.ledger.known(quest.incumbent)
        both = ~np.isnan(kl) & ~np.isnan(before)
        if both.sum() > 1:
            mean, error = difference(kl[both], before[both])
            surrogate.see_plan(choice, quest.incumbent, mean, error)
