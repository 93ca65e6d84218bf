"""Ways to send the calibration sequences through a model, forward and backward."""

from bitplan.sensitivity.passes.passes import AbstractPass as AbstractPass
from bitplan.sensitivity.passes.whole import WholeModel as WholeModel
