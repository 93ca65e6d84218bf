"""Checkpoints, and other runtimes' formats."""

from bitplan.export.checkpoint import folder_to_save_in as folder_to_save_in
from bitplan.export.checkpoint import is_packed as is_packed
from bitplan.export.checkpoint import load as load
from bitplan.export.checkpoint import load_plan as load_plan
from bitplan.export.checkpoint import save as save
from bitplan.export.told import tell_transformers as tell_transformers
