"""The whole path: python examples/whole_path.py MODEL BUDGET_GB TEXT HELD_OUT_TEXT."""

import sys

import bitplan

model, budget_gb, text, held_out = sys.argv[1:]
plan = bitplan.allocate(model, budget_gb=float(budget_gb), calibration=text)
plan.save("plan.json")
packed = bitplan.apply_plan(model, plan)
bitplan.save(packed, "small-model", plan)
small = bitplan.load("small-model")
print(bitplan.evaluate(small, reference=model, text=held_out))
