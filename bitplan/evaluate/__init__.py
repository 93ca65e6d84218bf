"""How good a model is: perplexity, KL to the reference model, throughput."""

from bitplan.evaluate.divergence import Divergence as Divergence
from bitplan.evaluate.divergence import Reference as Reference
from bitplan.evaluate.divergence import batches as batches
from bitplan.evaluate.divergence import compare as compare
from bitplan.evaluate.divergence import make_reference as make_reference
from bitplan.evaluate.evaluate import Report as Report
from bitplan.evaluate.evaluate import Side as Side
from bitplan.evaluate.evaluate import evaluate as evaluate
