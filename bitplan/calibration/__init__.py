"""Text -> tokens: what a model is calibrated, searched and judged on, kept apart by document."""

from bitplan.calibration.documents import read_documents as read_documents
from bitplan.calibration.limits import check_inputs as check_inputs
from bitplan.calibration.limits import check_length as check_length
from bitplan.calibration.limits import check_tokens as check_tokens
from bitplan.calibration.prepare import SAMPLED as SAMPLED
from bitplan.calibration.prepare import prepare as prepare
from bitplan.calibration.sample import check_temperature as check_temperature
from bitplan.calibration.sample import sample_tokens as sample_tokens
from bitplan.calibration.sets import TokenSets as TokenSets
from bitplan.calibration.sets import tokens_digest as tokens_digest
from bitplan.calibration.sizes import SEQUENCES as SEQUENCES
from bitplan.calibration.sizes import Counts as Counts
from bitplan.calibration.sizes import Sizes as Sizes
from bitplan.calibration.sizes import length_of as length_of
from bitplan.calibration.sizes import settle as settle
from bitplan.calibration.sources import Calibration as Calibration
from bitplan.calibration.sources import Source as Source
from bitplan.calibration.sources import check_sources as check_sources
from bitplan.calibration.sources import inputs_of as inputs_of
from bitplan.calibration.sources import parse_source as parse_source
from bitplan.calibration.sources import sources_of as sources_of
from bitplan.calibration.split import tokenize as tokenize
from bitplan.calibration.tensors import has_tokens as has_tokens
from bitplan.calibration.tensors import own_length as own_length
from bitplan.calibration.time_limit import STEPS as STEPS
from bitplan.calibration.time_limit import within as within
