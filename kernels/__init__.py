"""Packed weights -> matmul. One folder a format family; `reference.py` in each is the truth."""

from bitplan.kernels.choose import choose as choose
from bitplan.kernels.choose import reference_of as reference_of
