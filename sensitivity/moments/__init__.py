"""Sums over the calibration tokens of one layer, one kind a file; gathered together, kept apart."""

from bitplan.sensitivity.moments.covariance import Covariance
from bitplan.sensitivity.moments.fisher import Fisher
from bitplan.sensitivity.moments.grouped_covariance import GroupedCovariance
from bitplan.sensitivity.moments.inputs import Inputs
from bitplan.sensitivity.moments.moment import AbstractMoment as AbstractMoment
from bitplan.sensitivity.moments.outputs import Outputs

MOMENTS: dict[str, AbstractMoment] = {
    moment.name: moment
    for moment in (Covariance(), GroupedCovariance(), Inputs(), Fisher(), Outputs())
}
