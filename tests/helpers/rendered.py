"""Random weights, covariances, and one weight in one scheme."""

import torch
from torch import Tensor

from bitplan.compress import render
from bitplan.formats import Packed
from bitplan.schema import Scheme


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(columns: int, seed: int = 0) -> Tensor:
    """The covariance of inputs whose columns go together and differ in size."""
    mixed = random(2 * columns, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    inputs = mixed * torch.logspace(-0.5, 0.5, columns) / columns**0.5
    return inputs.t() @ inputs / len(inputs)


def one(weight: Tensor, name: str, quantizer: str, covariance: Tensor | None = None) -> Packed:
    scheme = Scheme.parse(name)
    return render(weight, [scheme], quantizer=quantizer, covariance=covariance)[scheme]


def expected_loss(weight: Tensor, packed: Packed, covariance: Tensor) -> float:
    error = (packed.decode() - weight).double()
    return ((error @ covariance.double()) * error).sum().item()
