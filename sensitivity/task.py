"""One layer's share of the work: render its weight in some schemes, and judge each error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.schema import Layer, Scheme
from bitplan.sensitivity.estimators import AbstractEstimator, Part
from bitplan.sensitivity.estimators.weight_error import WeightError
from bitplan.sensitivity.losses import Losses, total
from bitplan.sensitivity.moments.shrinkage import shrinkage
from bitplan.sensitivity.statistics import LayerStatistics

WEIGHTS_AT_ONCE = 1 << 24
"""Weights whose error is held in float32 at a time: bounds memory at large vocabularies."""


@dataclass(frozen=True, kw_only=True)
class LayerTask:
    """All that rendering and judging one layer takes: it can be done in any process.

    `known` are schemes that are rendered already. `rendering` are the statistics that the quantizer
    reads, `statistics` the estimator's: one object where they are the same, which is sent once, and
    None where the estimator reads the weights alone and nothing was gathered.
    """

    layer: Layer
    weight: Float[Tensor, "*experts out in"]
    schemes: Sequence[Scheme]
    known: dict[Scheme, Packed]
    quantizer: str
    rendering: LayerStatistics | None
    estimator: AbstractEstimator | None
    statistics: LayerStatistics | None


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """What came of a task: newly rendered weights, and the losses of all its schemes."""

    layer: Layer
    rendered: dict[Scheme, Packed]
    losses: dict[Scheme, Losses]


def run_task(task: LayerTask) -> LayerResult:
    """Render what is not known, and judge every scheme of the task.

    The result is the same to the last bit wherever that is done. Sums round in another order on
    more threads and on columns that are not contiguous, so there is one thread, and rows are.
    """
    with torch.no_grad(), torch_threads(1):
        return _run(replace(task, weight=task.weight.contiguous()))


def _run(task: LayerTask) -> LayerResult:
    missing = [scheme for scheme in task.schemes if scheme not in task.known]
    rendered = {}
    if missing:
        # A sum in place of a mean: mapped from its file, where a mean would be a copy.
        read = None if task.rendering is None else task.rendering["covariance"]
        rendered = render(
            task.weight,
            missing,
            quantizer=task.quantizer,
            covariance=None if read is None else read["covariance"],
            shrinkage=None if read is None else shrinkage(read),
        )
    packed = task.known | rendered
    losses = {}
    if task.estimator is not None:
        losses = {scheme: judge(task, packed[scheme]) for scheme in task.schemes}
    return LayerResult(layer=task.layer, rendered=rendered, losses=losses)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def judge(task: LayerTask, packed: Packed) -> Losses:
    """What the task's estimator says of the error of one rendered weight."""
    assert task.estimator is not None
    weight, rows = task.weight, task.weight.shape[-2]
    norm = _squared_norm(weight)
    guess = task.statistics is not None and not task.statistics.reached.any()
    statistics = task.statistics or LayerStatistics(moments={})
    estimator = WeightError() if guess else task.estimator
    step = rows
    if estimator.by_rows:
        step = max(1, WEIGHTS_AT_ONCE // max(1, weight.numel() // rows))
    parts = []
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        dense = weight[..., part, :].float()
        # What runs is the decoded weight in the model's own dtype. That may be the packed tensor
        # itself, which must stay as it is.
        error = torch.sub(packed.rows(part).decode(weight.dtype), dense)
        parts.append(
            estimator.judge(
                Part(error=error, weight=dense, rows=part, norm=norm, statistics=statistics)
            )
        )
    found = total(parts)
    # Statistics of zero would call every error free. A relative error in nats is far more than most
    # layers' loss, and its standard error is as large.
    return Losses(loss=found.loss, by_sequence=found.by_sequence, is_guess=True) if guess else found


def _squared_norm(weight: Tensor) -> float:
    return sum(part.float().square().sum(dtype=torch.float64).item() for part in weight.split(1024))
