"""Weights of two planes on a GPU by Triton: a product with each, and the sum of both."""

from bitplan.kernels.codebook.triton import arrange as arrange
from bitplan.kernels.codebook.triton import grouped as grouped
from bitplan.kernels.codebook.triton import linear as linear
from bitplan.kernels.codebook.triton import lookup as lookup
from bitplan.kernels.codebook.triton import restore as restore
