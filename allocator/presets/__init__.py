"""Published ways of choosing schemes, by name, each a few lines over the common core."""

from bitplan.allocator.presets.adaquant import ADAQUANT
from bitplan.allocator.presets.baq import BAQ
from bitplan.allocator.presets.evopress import EVOPRESS
from bitplan.allocator.presets.hawq_v3 import HAWQ_V3
from bitplan.allocator.presets.high_impact_ratios import HIGH_IMPACT_RATIOS
from bitplan.allocator.presets.layer_wise import LAYER_WISE_LIM, LAYER_WISE_ZD
from bitplan.allocator.presets.lq_lora import LQ_LORA
from bitplan.allocator.presets.mixdq import MIXDQ
from bitplan.allocator.presets.nncf import NNCF, NNCF_DATA_FREE
from bitplan.allocator.presets.preset import Preset as Preset
from bitplan.allocator.presets.tyr import TYR
from bitplan.errors import InputError

PRESETS: dict[str, Preset] = {
    each.name: each
    for each in (
        ADAQUANT,
        HAWQ_V3,
        LQ_LORA,
        MIXDQ,
        BAQ,
        LAYER_WISE_LIM,
        LAYER_WISE_ZD,
        HIGH_IMPACT_RATIOS,
        EVOPRESS,
        TYR,
        NNCF,
        NNCF_DATA_FREE,
    )
}


def get_preset(name: str) -> Preset:
    """The preset of a name, with - or _ between its words; `InputError` with those there are."""
    found = PRESETS.get(name.replace("-", "_"))
    if found is None:
        raise InputError(f"There is no preset {name!r}. Choose one of {', '.join(PRESETS)}.")
    return found


def check_preset(name: str | None, solver: str = "auto") -> None:
    """Raise `InputError` for a name that is no preset's, or a solver beside it; None is none."""
    if name is None:
        return
    get_preset(name)
    if solver != "auto":
        raise InputError(
            f"The preset {name!r} has a solver of its own, and {solver!r} is asked for, too. Leave "
            "one of them out."
        )
