"""Text -> tokens: what a model is calibrated, searched and judged on, kept apart by document."""

from bitplan.calibration.documents import read_documents as read_documents
from bitplan.calibration.limits import check_inputs as check_inputs
from bitplan.calibration.limits import check_length as check_length
from bitplan.calibration.limits import check_tokens as check_tokens
from bitplan.calibration.sample import sample_tokens as sample_tokens
from bitplan.calibration.split import SAMPLED as SAMPLED
from bitplan.calibration.split import Calibration as Calibration
from bitplan.calibration.split import Sizes as Sizes
from bitplan.calibration.split import TokenSets as TokenSets
from bitplan.calibration.split import prepare as prepare
from bitplan.calibration.split import tokenize as tokenize
from bitplan.calibration.split import tokens_digest as tokens_digest
