"""No sequence among many may decide alone what a layer's statistics are.

Squared gradients have a heavy tail: at a few tokens a layer sees gradients that are hundreds of
times the usual, most of all in the first blocks, where they have come through all others. A handful
of them can be most of a sum over thousands of tokens, which then says little about other text; and
the loss at such tokens saturates long before a quadratic form does. So a sequence whose mean
squared gradient is more than `MOST` times the median sequence's is weighed down to that: the sums
are winsorized (Tukey, 1962, "The Future of Data Analysis"). Sequences come one after another and
are gone, so the median is that of the sequences so far.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.sensitivity.watch import Seen

MOST = 3.0
"""Mean squared gradient of a sequence, at most, over the median sequence's."""

PRODUCT, LOOKUP = range(2)
"""What a matrix is used for. Of a tied embedding it is both, at opposite ends of the model."""

KINDS = 2


def mean_squares(seen: Iterable[Seen]) -> Float[Tensor, "kinds"]:
    """Mean squared gradient of one layer in one sequence, of all experts together; 0: none."""
    total, count = torch.zeros(KINDS, dtype=torch.float64), torch.zeros(KINDS)
    for one in seen:
        kind = LOOKUP if one.is_lookup else PRODUCT
        total[kind] += one.gradients.float().square().sum(dtype=torch.float64).cpu()
        count[kind] += one.gradients.numel()
    return total / count.clamp_min(1)


def factor(means: Float[Tensor, "sequences"], sequence: int) -> float:
    """What to weigh a sequence's squared gradients by, from 0 to 1, after those that came before.

    `means` are 0 where a sequence has not come yet, or had no gradient.
    """
    mean = means[sequence]
    if mean <= 0:
        return 1.0
    return min(1.0, (MOST * means[means > 0].median() / mean).item())
