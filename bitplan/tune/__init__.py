"""A compressed model, tuned on what the reference gives: block by block, and end to end."""

from bitplan.tune.blocks import BLOCK_RATE as BLOCK_RATE
from bitplan.tune.blocks import block_files as block_files
from bitplan.tune.blocks import restore_blocks as restore_blocks
from bitplan.tune.blocks import tune_blocks as tune_blocks
from bitplan.tune.equivalent import EPOCHS as EPOCHS
from bitplan.tune.equivalent import Equivalents as Equivalents
from bitplan.tune.equivalent import learn_equivalents as learn_equivalents
from bitplan.tune.lessons import Lessons as Lessons
from bitplan.tune.tuner import RATE as RATE
from bitplan.tune.tuner import STEPS as STEPS
from bitplan.tune.tuner import Tuned as Tuned
from bitplan.tune.tuner import is_ended as is_ended
from bitplan.tune.tuner import restore as restore
from bitplan.tune.tuner import tune as tune
