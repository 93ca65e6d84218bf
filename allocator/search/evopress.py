"""EvoPress: mutate the best plan by balanced level switches, keep the best of the offspring.

Source: Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via Evolutionary
Search", arXiv 2410.14649: (1 + lambda) with elitism; a switch raises one layer a level and lowers
another of the same size; selection goes through stages of more and more tokens, drawn anew in every
generation, the parent taking part in the last.
"""

import numpy as np

from bitplan.allocator.ladder import Ladder
from bitplan.allocator.search.paired import ERRORS
from bitplan.allocator.search.quest import Quest
from bitplan.allocator.search.stages import Stage, survivor

OFFSPRING = 32
SURVIVORS = (8, 2, 1)
"""Of the stages, on 1/16, 1/4 and all of the sequences. The paper: 128 offspring, 16, 4 and 1."""
SHARES = (16, 4, 1)
MOST_SWITCHES = 3
"""Of one mutation: the lesser of two numbers drawn up to this."""
IDLE = 20
"""Generations without any plan that was not measured before that end the search."""
TRIES = 64
"""To find a second row that balances the first."""


def evopress(quest: Quest) -> None:
    """Until the tokens are spent, or there is nothing new to try."""
    everything = Stage(sequences=quest.ledger.everything, survivors=1)
    quest.incumbent = survivor(quest.ledger, quest.starts, [everything])
    evolve(quest, errors=0.0)


def evolve(quest: Quest, *, errors: float = ERRORS) -> None:
    """From the incumbent on; what is better by so many standard errors takes its place."""
    ledger, ladder = quest.ledger, Ladder.of(quest.problem)
    sequences = ledger.evaluator.sequences
    spent, idle = ledger.spent, 0
    # Where few plans fit, all of them are measured at last.
    while idle < IDLE:
        offspring = [mutated(quest, ladder) for _ in range(OFFSPRING)]
        drawn = quest.random.permutation(sequences)
        stages = [
            Stage(sequences=drawn[: max(1, sequences // share)].tolist(), survivors=survivors)
            for share, survivors in zip(SHARES, SURVIVORS, strict=True)
        ]
        quest.accept(survivor(ledger, offspring, stages), errors)
        idle = idle + 1 if ledger.spent == spent else 0
        spent = ledger.spent


def mutated(quest: Quest, ladder: Ladder) -> np.ndarray:
    """The incumbent [rows] after a few switches: one row up a level, one of its size down."""
    problem, random = quest.problem, quest.random
    level = ladder.level(problem, quest.incumbent)
    for _ in range(random.integers(1, MOST_SWITCHES + 1, 2).min()):
        can_rise = np.flatnonzero(level < ladder.rungs - 1)
        for _ in range(TRIES if can_rise.size else 0):
            up = random.choice(can_rise)
            alike = (problem.parameters == problem.parameters[up]) & (level > 0)
            alike[up] = False
            if not alike.any():
                continue
            changed = level.copy()
            changed[up] += 1
            changed[random.choice(np.flatnonzero(alike))] -= 1
            if problem.fits(ladder.choice(changed)):
                level = changed
                break
    return ladder.choice(level)
