"""KL of what two models say, as a loss whose way back holds no second copy of the distributions."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitplan.models.outputs import Outputs, Says, positions_at_once

LEAST_SQUARE = 1e-30
"""Mean square of states below which they count as this: none at all is no distance to divide by."""


def total_kl(
    outputs: Outputs, reference: Float[Tensor, "sequences positions width"]
) -> Float[Tensor, ""]:
    """KL(reference || outputs) in nats, summed over all positions; differentiable in the outputs.

    Of hidden states it is what `bitplan.evaluate.divergence.gaussian_kl` measures. Of logits the
    gradient, softmax(outputs) - softmax(reference), is made along with the loss, some positions at
    a time.
    """
    found = outputs.values
    if outputs.says is Says.STATES:
        total = torch.zeros((), device=found.device)
        for ours, told in zip(found.float(), reference, strict=True):
            told = told.float().to(found.device)
            scale = 2 * told.square().mean().clamp_min(LEAST_SQUARE)
            total = total + (ours - told).square().mean() / scale * told.shape[:-1].numel()
        return total
    return _LogitsKL.apply(found, reference)


class _LogitsKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference: Tensor) -> Tensor:
        """The sum over positions, and its gradient in the logits' dtype."""
        rows, told = logits.flatten(0, -2), reference.flatten(0, -2)
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits.device)
        step = positions_at_once(rows)
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            log_q = rows[some].float().log_softmax(-1)
            log_p = told[some].to(logits.device).float().log_softmax(-1)
            p = log_p.exp()
            total += (log_p.sub_(log_q)).mul_(p).sum()
            if gradient is not None:
                gradient[some] = log_q.exp_().sub_(p)
        ctx.save_for_backward(None if gradient is None else gradient.reshape(logits.shape))
        return total

    # The decorator's result has no keywords, says pyright; torch gives none.
    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, None]:
        """The gradient that `forward` made."""
        [gradient], [weight] = ctx.saved_tensors, gradients
        return gradient * weight, None  # of no dimensions: the dtype stays
