"""Which weights become zero: a score for each, and those of a row that score highest are kept."""

from bitplan.compress.sparsifiers.admm import admm as admm
from bitplan.compress.sparsifiers.dsnot import dsnot as dsnot
from bitplan.compress.sparsifiers.icbs import icbs as icbs
from bitplan.compress.sparsifiers.keep import keep as keep
from bitplan.compress.sparsifiers.scores import magnitude as magnitude
from bitplan.compress.sparsifiers.scores import saliency as saliency
from bitplan.compress.sparsifiers.scores import wanda as wanda
