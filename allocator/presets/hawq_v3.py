"""HAWQ-V3 (Yao et al. 2021, its integer linear program): mean Hessian trace x squared perturbation.

Omega_i(b_i) = mean trace(H_i) |Q(W_i) - W_i|^2, which is twice what `hessian_trace` measures: the
same optimum. The limits are those of the paper: model size (the budget), bit operations
G_i = b_w b_a MAC_i (`BitOps`) and latency (`Seconds`, with a table of measured times). Its code
(github.com/Zhen-Dong/HAWQ, ILP.ipynb) also ties layers that feed one sum (`Constraints.ties`).
"""

from bitplan.allocator.presets.integer_program import integer_program
from bitplan.allocator.presets.preset import Preset

HAWQ_V3 = Preset(
    name="hawq_v3",
    title="HAWQ-V3",
    source="Yao, Dong, Zheng, Gholami et al. 2021, HAWQ-V3: Dyadic Neural Network Quantization, "
    "ICML, arXiv 2011.10680, the integer linear program for mixed precision",
    objective="minimise sum_i tr(H_i)/n_i |Q(W_i) - W_i|^2, subject to sums of sizes, of bit "
    "operations (b_w b_a MAC_i) and of latencies",
    estimators=("hessian_trace",),
    menu="4 and 8 bits",
    choose=integer_program,
    limits=True,
)
