"""The stages: each reads and writes one artefact, so that each can be cached, resumed and shown."""

from bitplan.pipeline.apply import apply_plan as apply_plan
from bitplan.pipeline.apply import run_apply as run_apply
from bitplan.pipeline.estimator import which_estimator as which_estimator
from bitplan.pipeline.settings import Settings as Settings
from bitplan.pipeline.stages import Outcome as Outcome
from bitplan.pipeline.stages import allocate as allocate
from bitplan.pipeline.stages import measure as measure
from bitplan.pipeline.stages import run as run
from bitplan.pipeline.transform import folded_workspace as folded_workspace
from bitplan.pipeline.workspace import Workspace as Workspace
from bitplan.pipeline.workspace import default_workdir as default_workdir
