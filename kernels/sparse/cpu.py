"""Weights some of which are zero, on the CPU by compiled loops."""

from bitplan.kernels.by_rows import arrange as arrange
from bitplan.kernels.by_rows import few as few
from bitplan.kernels.by_rows import linear as linear
from bitplan.kernels.by_rows import linear_back as linear_back
from bitplan.kernels.by_rows import lookup as lookup
from bitplan.kernels.by_rows import restore as restore
