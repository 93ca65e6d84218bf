"""Packed weights -> matmul. One folder a format family; `reference.py` in each is the truth."""

from bitplan.kernels import operators as operators
from bitplan.kernels.choose import COMPILED as COMPILED
from bitplan.kernels.choose import arranged_for as arranged_for
from bitplan.kernels.choose import choose as choose
from bitplan.kernels.choose import reference_of as reference_of
from bitplan.kernels.gpu.grouped import grouped_of_several as grouped_of_several
from bitplan.kernels.gpu.together import one_launch as one_launch
from bitplan.kernels.gradient import differentiable as differentiable
