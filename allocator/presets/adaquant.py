"""AdaQuant's integer program (Hubara et al. 2020): degradations of single layers add up.

The paper maximises the gain sum_l dP_l (bytes or operations saved) under a bound on the degradation
sum_l dL_l, each measured with one layer quantized and all others in the base precision. Its code
(github.com/itayhubara/CalibTIP) does as is done here: least degradation at a compression to be met.
There every degradation is 10^-6 at least and that of the base precision zero.
"""

from bitplan.allocator.presets.integer_program import integer_program
from bitplan.allocator.presets.preset import Preset

ADAQUANT = Preset(
    name="adaquant",
    title="AdaQuant",
    source="Hubara, Nahshan, Hanani, Banner, Soudry 2020, Improving Post Training Neural "
    "Quantization: Layer-wise Calibration and Integer Programming, arXiv 2006.10518, "
    "its integer program",
    objective="minimise sum_l dL_l(b_l), subject to sum_l dP_l(b_l) >= what is to be saved",
    estimators=("single_swaps",),
    menu="4 and 8 bits",
    choose=integer_program,
    limits=True,
)
