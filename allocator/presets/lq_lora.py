"""LQ-LoRA (Guo et al. 2023): the Fisher-weighted squared error of each format of a large menu.

The error of matrix A in format c is |sqrt(F) * (A - A_c)|_F^2, F the diagonal of the empirical
Fisher, as the paper's code computes it (github.com/HanGuo97/lq-lora, models/lq_utils.py); here
`fisher_diagonal`, half of that for each token: the same optimum. There A_c is a NormalFloat matrix
and a low-rank one, here whatever the table's schemes are; what is chosen, and how, is the same.
"""

from bitplan.allocator.presets.integer_program import integer_program
from bitplan.allocator.presets.preset import Preset

LQ_LORA = Preset(
    name="lq_lora",
    title="LQ-LoRA",
    source="Guo, Greengard, Xing, Kim 2023, LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition "
    "for Efficient Language Model Finetuning, arXiv 2311.12023, section on mixed configurations",
    objective="minimise sum_i |sqrt(F_i) * (A_i - A_i(c_i))|^2, subject to sum_i bits(A_i, c_i)",
    estimators=("fisher_diagonal", "fisher_sampled"),
    menu="2, 3, 4 and 8 bits in blocks of 16, 32 and 64, with scales of several widths",
    choose=integer_program,
    limits=True,
)
