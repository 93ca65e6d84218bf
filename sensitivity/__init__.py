"""Model + candidate schemes + calibration tokens -> cost table."""

from bitplan.sensitivity.caches import cache_rows as cache_rows
from bitplan.sensitivity.engines import ENGINES as ENGINES
from bitplan.sensitivity.engines import check_engine as check_engine
from bitplan.sensitivity.engines import choose_engine as choose_engine
from bitplan.sensitivity.engines import get_engine as get_engine
from bitplan.sensitivity.estimators import ESTIMATORS as ESTIMATORS
from bitplan.sensitivity.estimators import LAYER_ESTIMATORS as LAYER_ESTIMATORS
from bitplan.sensitivity.estimators import MODEL_ESTIMATORS as MODEL_ESTIMATORS
from bitplan.sensitivity.estimators import AbstractModelEstimator as AbstractModelEstimator
from bitplan.sensitivity.estimators import Bench as Bench
from bitplan.sensitivity.estimators import get_estimator as get_estimator
from bitplan.sensitivity.gather import gather as gather
from bitplan.sensitivity.law import fit as fit
from bitplan.sensitivity.measure import Meter as Meter
from bitplan.sensitivity.objective import LABELS as LABELS
from bitplan.sensitivity.passes import PASSES as PASSES
from bitplan.sensitivity.passes import AbstractPass as AbstractPass
from bitplan.sensitivity.passes import BlockWise as BlockWise
from bitplan.sensitivity.passes import WholeModel as WholeModel
from bitplan.sensitivity.passes import check_pass as check_pass
from bitplan.sensitivity.passes import choose_pass as choose_pass
from bitplan.sensitivity.passes import open_pass as open_pass
from bitplan.sensitivity.row import row_of as row_of
from bitplan.sensitivity.shards import Shards as Shards
from bitplan.sensitivity.statistics import StatisticsFolder as StatisticsFolder
