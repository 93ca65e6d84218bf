"""Model + candidate schemes + calibration tokens -> cost table."""

from bitplan.sensitivity.caches import cache_rows as cache_rows
from bitplan.sensitivity.estimators import ESTIMATORS as ESTIMATORS
from bitplan.sensitivity.estimators import get_estimator as get_estimator
from bitplan.sensitivity.gather import gather as gather
from bitplan.sensitivity.measure import Meter as Meter
from bitplan.sensitivity.statistics import StatisticsFile as StatisticsFile
