"""Every way to allocate that is compared, by name."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import heuristics
import rivals
from activations import Activations
from ground import Assignment, Ground, Losses, scheme_of
from peers import Scores, scores_of
from search import Searched, evopress, evopress_from_ours, refined

from bitplan.allocator import Constraints, solve
from bitplan.models import Inputs

STEPS = (1, 4, 16)
"""Multiples of the base number of tokens that a search may send through the model."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What an arm may ask for: the ground, what peers say of it, and the tokens of a search."""

    ground: Ground
    folder: Path
    search_tokens: int  # of 1x
    _scores: dict[str, Scores] = field(default_factory=dict)

    def scores(self, peer: str) -> Scores:
        """A peer's scores, made once."""
        if peer not in self._scores:
            ground = self.ground
            if not ground.predicts_text:
                raise heuristics.NoPlan("it scores by the loss of a language model")
            self._scores[peer] = scores_of(peer, ground.subject, ground.seed, self.folder)
        return self._scores[peer]

    @property
    def calibration_tokens(self) -> int:
        """Of the sample that all are given."""
        return Inputs.of(self.ground.tokens.calibration).tokens


@dataclass(frozen=True, kw_only=True)
class Made:
    """An arm's plan, and what it took to make, rendering not counted.

    `gain` is the share of the uniform plan's loss that the arm itself expects to save. None: it
    expects nothing, or it is not known.
    """

    assignment: Assignment
    seconds: float | None
    tokens: int
    gain: float | None = None


Arm = Callable[[Bench, float], Made]


def _heuristic(choose: Callable[[Ground, float], Assignment], bench: Bench, bits: float) -> Made:
    start = time.perf_counter()
    assignment = choose(bench.ground, bits)
    return Made(assignment=assignment, seconds=time.perf_counter() - start, tokens=0)


def _rival(
    choose: Callable[[Ground, Activations, float], Assignment],
    kind: str,
    bench: Bench,
    bits: float,
) -> Made:
    activations, start = bench.ground.activations, time.perf_counter()
    assignment = choose(bench.ground, activations, bits)
    seconds = time.perf_counter() - start
    return Made(
        assignment=assignment,
        seconds=None if activations.seconds is None else activations.seconds + seconds,
        tokens=activations.tokens,
        gain=_gain(getattr(activations, kind), assignment, bench, bits),
    )


def _peer(name: str, bench: Bench, bits: float) -> Made:
    """A peer's scores in our exact solver, its groups tied."""
    scores, ground = bench.scores(name), bench.ground
    start = time.perf_counter()
    losses = _by_layer(scores, ground)
    ties = [group for group in scores.groups if len(group) > 1]
    plan = solve(
        ground.scored(losses),
        ground.budget(bits),
        constraints=Constraints(pins=ground.pins, ties=ties),
    )
    return Made(
        assignment=plan.schemes,
        seconds=scores.seconds + time.perf_counter() - start,
        tokens=scores.tokens,
        gain=_gain(losses, plan.schemes, bench, bits),
    )


def _threshold(name: str, bench: Bench, bits: float) -> Made:
    """As ModelOpt itself goes about its kl_div: no group above the lowest threshold that fits."""
    scores, ground = bench.scores(name), bench.ground
    start = time.perf_counter()
    budget, assignment = ground.budget(bits).total_bytes, {}
    for threshold in sorted({score for each in scores.scores for score in each.values()}):
        assignment = {
            layer: next(
                (scheme_of(width) for width in sorted(each) if each[width] <= threshold),
                ground.kept[layer],
            )
            for group, each in zip(scores.groups, scores.scores, strict=True)
            for layer in group
        }
        if ground.size_of(assignment) <= budget:
            break
    return Made(
        assignment=assignment,
        seconds=scores.seconds + time.perf_counter() - start,
        tokens=scores.tokens,
    )


def _by_layer(scores: Scores, ground: Ground) -> dict[tuple[str, str], float]:
    """Of a group's score each layer has its share of the weights; as it is, a layer has none."""
    size = {layer.name: layer.parameters for layer in ground.layers}
    losses = {}
    for group, by_width in zip(scores.groups, scores.scores, strict=True):
        total = sum(size[name] for name in group)
        for name in group:
            losses[name, str(ground.kept[name])] = 0.0
            for width, score in by_width.items():
                losses[name, str(scheme_of(width))] = max(0.0, score) * size[name] / total
    return losses


def _gain(losses: Losses, assignment: Assignment, bench: Bench, bits: float) -> float:
    """The share of the uniform plan's loss that the losses say a plan saves."""

    def total(plan: Assignment) -> float:
        return sum(losses[layer.name, str(plan[layer.name])] for layer in bench.ground.layers)

    return 1 - total(assignment) / total(heuristics.uniform(bench.ground, bits))


def _ours(fuse: bool, bench: Bench, bits: float) -> Made:
    """Our table, our exact solver; `fuse` ties what runtimes fuse, as ModelOpt does."""
    ground, start = bench.ground, time.perf_counter()
    plan = solve(ground.table, ground.budget(bits), pins=ground.pins, fuse=fuse)
    seconds = time.perf_counter() - start
    return Made(
        assignment=plan.schemes,
        seconds=None if ground.seconds is None else ground.seconds + seconds,
        tokens=bench.calibration_tokens,
        gain=_gain(ground.losses, plan.schemes, bench, bits),
    )


def _searched(
    search: Callable[[Ground, float, int], Searched], times: int, bench: Bench, bits: float
) -> Made:
    ground, start = bench.ground, time.perf_counter()
    found = search(ground, bits, times * bench.search_tokens)
    seconds = time.perf_counter() - start
    if search is evopress:  # of no losses, and none expected
        return Made(assignment=found.assignment, seconds=seconds, tokens=found.tokens)
    return Made(
        assignment=found.assignment,
        seconds=None if ground.seconds is None else ground.seconds + seconds,
        tokens=bench.calibration_tokens + found.tokens,
        gain=_gain(ground.losses, found.assignment, bench, bits),
    )


BASELINES: dict[str, Arm] = {
    "uniform": partial(_heuristic, heuristics.uniform),
    "ends_high": partial(_heuristic, heuristics.ends_high),
}
RIVALS: dict[str, Arm] = {
    "modelopt_gradient": partial(_peer, "modelopt_gradient"),
    "modelopt_kl_div": partial(_peer, "modelopt_kl_div"),
    "modelopt_threshold": partial(_threshold, "modelopt_kl_div"),
    "autoscheme": partial(_peer, "autoscheme"),
    "exllama": partial(_rival, rivals.exllama, "relative"),
    "nncf": partial(_rival, rivals.nncf, "traced"),
    **{f"evopress_{times}x": partial(_searched, evopress, times) for times in STEPS},
}
OURS: dict[str, Arm] = {
    "ours_fused": partial(_ours, True),
    "ours": partial(_ours, False),
    **{f"evopress_ours_{times}x": partial(_searched, evopress_from_ours, times) for times in STEPS},
    **{f"ours_{times}x": partial(_searched, refined, times) for times in STEPS},
}
ARMS = BASELINES | RIVALS | OURS
SEARCHES = [name for name in ARMS if name.endswith("x")]

LABELS = {
    "uniform": "uniform, halves in turn",
    "ends_high": "first and last block in 8 bits",
    "modelopt_gradient": "ModelOpt gradient",
    "modelopt_kl_div": "ModelOpt kl_div",
    "modelopt_threshold": "ModelOpt kl_div, its threshold",
    "autoscheme": "AutoRound AutoScheme",
    "exllama": "ExLlama-style greedy, exchange",
    "nncf": "NNCF-style sort",
    "ours_fused": "ours, unrefined, fused layers tied",
    "ours": "ours, unrefined",
}
LABELS |= {f"evopress_{times}x": f"EvoPress search, {times}x" for times in STEPS}
LABELS |= {f"evopress_ours_{times}x": f"EvoPress search from ours, {times}x" for times in STEPS}
LABELS |= {f"ours_{times}x": f"ours, refined, {times}x" for times in STEPS}
