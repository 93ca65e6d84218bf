"""Random sketches of a sequence's covariance: they tell what it makes of any error.

With random signs s_tk, the sketches z_k = sum_t s_tk x_t of the tokens x_t of one sequence have

    E |dW z_k|^2 = tr(dW X'X dW'),

the sequence's own X'X, without keeping it (Hutchinson, 1990). Errors that GPTQ made are small along
X'X's large directions, so its diagonal alone does not tell what a sequence makes of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SKETCHES = 4
"""Of each sequence. With 32 sequences of a real model, 4 tell a standard error to about 10%."""


def add_sketches(
    sketches: Float[Tensor, "sketches width"],
    rows: Float[Tensor, "tokens width"],
    generator: torch.Generator,
) -> None:
    """Add the tokens of one call of a layer, with signs that no other call has."""
    signs = torch.randint(0, 2, (len(sketches), len(rows)), generator=generator)
    sketches.addmm_(signs.to(rows).mul_(2).sub_(1), rows)


def mixed(sketches: Float[Tensor, "several *more sketches width"]) -> Tensor:
    """Sketches of the mean of several covariances, from sketches of each.

    With random signs, lest what several have in common adds up.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, sketches.shape[:-1], generator=generator).to(sketches)
    return (sketches * signs.mul_(2).sub_(1).unsqueeze(-1)).sum(0) / len(sketches) ** 0.5
