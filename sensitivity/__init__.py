"""Model + candidate schemes + calibration tokens -> cost table."""

from bitplan.sensitivity.caches import cache_rows as cache_rows
from bitplan.sensitivity.estimators import ESTIMATORS as ESTIMATORS
from bitplan.sensitivity.estimators import LAYER_ESTIMATORS as LAYER_ESTIMATORS
from bitplan.sensitivity.estimators import MODEL_ESTIMATORS as MODEL_ESTIMATORS
from bitplan.sensitivity.estimators import Bench as Bench
from bitplan.sensitivity.estimators import get_estimator as get_estimator
from bitplan.sensitivity.gather import gather as gather
from bitplan.sensitivity.measure import Meter as Meter
from bitplan.sensitivity.objective import LABELS as LABELS
from bitplan.sensitivity.passes import AbstractPass as AbstractPass
from bitplan.sensitivity.passes import WholeModel as WholeModel
from bitplan.sensitivity.shards import Shards as Shards
from bitplan.sensitivity.statistics import StatisticsFolder as StatisticsFolder
