"""Ways to send the calibration sequences through a model, forward and backward."""

from bitplan.names import PASSES as PASSES
from bitplan.names import check_pass as check_pass
from bitplan.sensitivity.passes.blockwise import BlockWise as BlockWise
from bitplan.sensitivity.passes.choose import choose_pass as choose_pass
from bitplan.sensitivity.passes.choose import open_pass as open_pass
from bitplan.sensitivity.passes.choose import statistics_bytes as statistics_bytes
from bitplan.sensitivity.passes.passes import AbstractPass as AbstractPass
from bitplan.sensitivity.passes.whole import WholeModel as WholeModel
