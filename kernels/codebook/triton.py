"""Weights of a codebook on a GPU by Triton, CUDA's or ROCm's.

`arrange` turns the canonical tensors into what the kernels read, in as many bytes; `restore` turns
them back, exactly.
"""

from jaxtyping import Float
from torch import Tensor

from bitplan.kernels.codebook import reference
from bitplan.kernels.gpu import operator
from bitplan.kernels.gpu.grouped import grouped as grouped
from bitplan.kernels.gpu.layout import arrange as arrange
from bitplan.kernels.gpu.layout import restore as restore
from bitplan.kernels.gpu.operator import lookup as lookup
from bitplan.schema import Scheme


def linear(
    inputs: Float[Tensor, "*tokens in"], arranged: dict[str, Tensor], scheme: Scheme
) -> Float[Tensor, "*tokens out"]:
    """Product with the transposed weight, in the inputs' dtype."""
    return operator.linear(inputs, arranged, scheme, reference.linear)
