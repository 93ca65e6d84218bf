"""Layer-Wise Quantization (Dumitru et al. 2024): blocks by importance, the top share at high bits.

A layer of the paper is a transformer block; here what is in no block, such as an embedding, counts
as a unit of its own. Two scores: LIM, how far a block's output is from its input, higher is more
important; and ZD, the share of its weights that are far above the mean, where, by the abstract,
*smaller* is more important. Tables hold scores times relative errors (`block_influence`,
`weight_outliers`), not scores, so blocks are ranked by the mean of these over a block's layers, at
the lower scheme: as the scores do where relative errors at one width are alike, as they nearly are.
"""

import numpy as np

from bitplan.allocator.presets.preset import Choose, Preset
from bitplan.allocator.presets.two_levels import around_the_budget, fewest_lowered
from bitplan.allocator.problem import Solution
from bitplan.allocator.task import Task

_SOURCE = (
    "Dumitru, Yadav, Maheshwary, Clotan, Madhusudhan, Surdeanu 2024, Layer-Wise Quantization: A "
    "Pragmatic and Effective Method for Quantizing LLMs Beyond Integer Bit-Levels, arXiv "
    "2406.17415, "
)


def _ranked(name: str, *, smaller_is_better: bool = False) -> Choose:
    def choose(task: Task, time_limit_s: float) -> Solution:
        low, high = around_the_budget(task)
        loss = task.problem.at(low, task.problem.loss)
        layers = np.array([len(names) for names in task.problem.layers])
        units = _blocks(task)
        scores = [float(loss[unit].sum() / layers[unit].sum()) for unit in units]
        order = np.argsort(
            [-score if smaller_is_better else score for score in scores], kind="stable"
        )
        return fewest_lowered(task, (low, high), [units[index] for index in order], name)

    return choose


def _blocks(task: Task) -> list[np.ndarray]:
    """The rows of each block, and each row that is in none."""
    block = {row.layer.name: row.layer.block for row in task.table.rows}
    units: dict[int | str, list[int]] = {}
    for index, (name, *_) in enumerate(task.problem.layers):
        number = block[name]
        units.setdefault(name if number is None else number, []).append(index)
    return [np.array(rows) for rows in units.values()]


LAYER_WISE_LIM = Preset(
    name="layer_wise_lim",
    title="Layer-Wise Quantization by LIM",
    source=f"{_SOURCE}section 3.1",
    objective="the blocks of largest 1 - cos(input, output) at the higher of two widths",
    estimators=("block_influence",),
    menu="two widths, as 8 and 4 bits or 4 and 2",
    choose=_ranked("layer_wise_lim"),
)

LAYER_WISE_ZD = Preset(
    name="layer_wise_zd",
    title="Layer-Wise Quantization by ZD",
    source=f"{_SOURCE}its z-score distribution",
    objective="the blocks of the smallest share of weights with a z-score above 1 at the higher",
    estimators=("weight_outliers",),
    menu="two widths, as 8 and 4 bits or 4 and 2",
    choose=_ranked("layer_wise_zd", smaller_is_better=True),
)
