"""What of a compressed model's bytes is a number, tuned on what the reference model says."""

from bitplan.tune.tuner import RATE as RATE
from bitplan.tune.tuner import Tuned as Tuned
from bitplan.tune.tuner import is_ended as is_ended
from bitplan.tune.tuner import restore as restore
from bitplan.tune.tuner import tune as tune
