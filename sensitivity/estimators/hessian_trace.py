"""The mean eigenvalue of each layer's Hessian, by Hutchinson's estimator.

HAWQ-V2 (Dong et al., 2020): a layer's perturbation costs 1/2 (tr(H)/n) |dW|^2, with H the
Hessian of the loss in its n weights, and tr(H) = E v'Hv for random signs v.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bitplan.models import (
    eager_experts,
    module_of,
    next_token_logits,
    weight_of,
    wide_matmuls,
)
from bitplan.schema import Layer
from bitplan.sensitivity.estimators.model_estimator import (
    AbstractModelEstimator,
    Bench,
    Judged,
    Schemes,
    check_some,
    is_usable,
)
from bitplan.sensitivity.losses import Losses
from bitplan.sensitivity.objective import likelihood


@dataclass(frozen=True, kw_only=True)
class HessianTrace(AbstractModelEstimator):
    """1/2 (tr(H)/n) |dW|^2 with the data's labels; one draw of v for each sequence.

    All layers share a draw: what one layer's signs add to another's estimate is zero in the mean.
    A backward pass through the backward pass: about three times the time and the memory of one. A
    negative trace, which noise can give, counts as zero.
    """

    jointly: ClassVar[bool] = True

    def judge(self, bench: Bench, schemes: Schemes) -> Iterator[Judged]:
        """Judge all layers together."""
        traces = _traces(bench, list(schemes))
        for layer, legal in schemes.items():
            weight = weight_of(bench.model, layer).float()
            mean = traces[layer] / (2 * layer.parameters * bench.text.shape[1])
            losses = {}
            for scheme in legal:
                error = bench.decode(layer, scheme).float().sub_(weight)
                with np.errstate(invalid="ignore"):  # whoever keeps the losses looks at them
                    by_sequence = mean * error.square().sum(dtype=torch.float64).item()
                    loss = max(0.0, float(by_sequence.mean()))
                losses[scheme] = Losses(loss=loss, by_sequence=by_sequence)
            yield layer, losses


def _traces(bench: Bench, layers: list[Layer]) -> dict[Layer, np.ndarray]:
    """v'Hv of each layer and sequence, H of the loss summed over the sequence's tokens."""
    found: dict[Layer, list[float]] = {layer: [] for layer in layers}
    of_parameter: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        of_parameter[layer.parameter].append(layer)
    with _differentiable(bench, layers) as parameters, wide_matmuls():
        weights = [*parameters.values()]
        for index in range(len(bench.text)):
            bench.progress("hessian", index, len(bench.text))
            tokens = bench.text[index : index + 1]
            loss = likelihood(next_token_logits(bench.model, tokens), tokens)
            if not is_usable(loss, index):
                continue
            gradients = torch.autograd.grad(
                loss, weights, create_graph=True, materialize_grads=True
            )
            generator = torch.Generator().manual_seed(index)
            signs = [_signs(weight, generator).to(weight.dtype) for weight in weights]
            # A layer that the sequence did not come to has a zero that nothing made.
            made = [(g, v) for g, v in zip(gradients, signs, strict=True) if g.requires_grad]
            slopes, directions = zip(*made, strict=True)
            products = torch.autograd.grad(
                slopes, weights, grad_outputs=directions, materialize_grads=True
            )
            del gradients, made, slopes, loss  # and with them their graph
            for name, product, sign in zip(parameters, products, signs, strict=True):
                values = product.float() * sign
                for layer in of_parameter[name]:
                    own = values if layer.expert is None else values[layer.expert]
                    found[layer].append(own.sum(dtype=torch.float64).item())
    bench.progress("hessian", len(bench.text), len(bench.text))
    for values in found.values():
        check_some(values)
    return {layer: np.array(values) for layer, values in found.items()}


@contextmanager
def _differentiable(bench: Bench, layers: list[Layer]) -> Iterator[dict[str, Tensor]]:
    """The layers' parameters, which require gradients within the block, as no other does."""
    held = {layer.parameter: module_of(bench.model, layer) for layer in layers}
    addresses = {
        name: getattr(module, name.rpartition(".")[2]).data_ptr() for name, module in held.items()
    }
    wanted = set(addresses.values())
    with ExitStack() as stack:
        found = {}
        for parameter in bench.model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(parameter.data_ptr() in wanted)
            found[parameter.data_ptr()] = parameter
        stack.enter_context(eager_experts(bench.model))
        # The fused attentions have no second derivative.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.enable_grad())
        yield {name: found[address] for name, address in addresses.items()}


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8)
    return drawn.float().mul_(2).sub_(1)
