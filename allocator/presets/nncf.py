"""NNCF's sort: the least sensitive layers, a share of all parameters, get the fewer bits.

As in its code (github.com/openvinotoolkit/nncf, quantization/algorithms/weight_compression): scores
of all layers are sorted, and from the lowest up layers get the primary precision until its share of
all weights would reach the ratio; all others stay in the backup precision. The ratio here is the
smallest that the budget allows. As with `all_layers=True`, embedding and head are among them.

Its scores judge the error of the backup precision: HESSIAN_INPUT_ACTIVATION is mean(x^2) |dW|^2, as
`output_error` measures it but for the off-diagonal; the data-free WEIGHT_QUANTIZATION_ERROR is one
over the error, so that what 8 bits serve well stays there. (NNCF's error is the largest channel's
mean, `weight_error` is relative to the weight: they rank alike, not the same.)
"""

from bitplan.allocator.presets.preset import Choose, Preset
from bitplan.allocator.presets.two_levels import around_the_budget, each_row, fewest_lowered
from bitplan.allocator.problem import Solution
from bitplan.allocator.task import Task

_SOURCE = "OpenVINO NNCF 2.x, weight_compression/mixed_precision.py, "


def _sorted(name: str, *, inverted: bool = False) -> Choose:
    def choose(task: Task, time_limit_s: float) -> Solution:
        low, high = around_the_budget(task)
        error = task.problem.at(high, task.problem.loss)
        order = each_row(task.problem, -error if inverted else error)
        return fewest_lowered(task, (low, high), order, name)

    return choose


NNCF = Preset(
    name="nncf",
    title="NNCF's sort by the error at the backup precision",
    source=f"{_SOURCE}HESSIAN_INPUT_ACTIVATION",
    objective="layers of the lowest mean(x^2) |dW at 8 bits|^2 to the primary precision",
    estimators=("output_error",),
    menu="a primary precision of 4 bits, a backup of 8",
    choose=_sorted("nncf"),
)

NNCF_DATA_FREE = Preset(
    name="nncf_data_free",
    title="NNCF's sort without data",
    source=f"{_SOURCE}WEIGHT_QUANTIZATION_ERROR",
    objective="layers of the lowest 1 / |dW at 8 bits|^2 to the primary precision",
    estimators=("weight_error",),
    menu="a primary precision of 4 bits, a backup of 8",
    choose=_sorted("nncf_data_free", inverted=True),
)
