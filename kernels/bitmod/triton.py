"""Weights of a choice of codebooks on a GPU by Triton: one entry of the table is the group's."""

from bitplan.kernels.codebook.triton import arrange as arrange
from bitplan.kernels.codebook.triton import grouped as grouped
from bitplan.kernels.codebook.triton import linear as linear
from bitplan.kernels.codebook.triton import lookup as lookup
from bitplan.kernels.codebook.triton import restore as restore
