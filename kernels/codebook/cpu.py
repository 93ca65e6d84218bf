"""Weights of a codebook on the CPU by compiled loops, which look each code up in its table.

Evenly spaced ones need none: see `even`.
"""

from bitplan.kernels.by_rows import arrange as arrange
from bitplan.kernels.by_rows import few as few
from bitplan.kernels.by_rows import linear as linear
from bitplan.kernels.by_rows import linear_back as linear_back
from bitplan.kernels.by_rows import lookup as lookup
from bitplan.kernels.by_rows import restore as restore
