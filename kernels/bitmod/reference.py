"""Weights of a choice of codebooks, decoded and multiplied: the truth, on any device."""

from bitplan.kernels.decoded import linear as linear
from bitplan.kernels.decoded import linear_back as linear_back
from bitplan.kernels.decoded import lookup as lookup
