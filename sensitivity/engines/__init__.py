"""Who does the tasks: this process, several, or a cluster. The results are the same."""

from bitplan.sensitivity.engines.choose import ENGINES as ENGINES
from bitplan.sensitivity.engines.choose import check_engine as check_engine
from bitplan.sensitivity.engines.choose import choose_engine as choose_engine
from bitplan.sensitivity.engines.choose import choose_workers as choose_workers
from bitplan.sensitivity.engines.choose import get_engine as get_engine
from bitplan.sensitivity.engines.engine import AbstractEngine as AbstractEngine
