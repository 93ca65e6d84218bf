"""One measurement, many budgets: python examples/from_a_script.py MODEL BUDGET_GB [BUDGET_GB ...].

BITPLAN_SERVER says where the service is, BITPLAN_TOKEN with which token it is asked.
"""

import sys

import bitplan

model, *budgets = sys.argv[1:]
with bitplan.Client() as client:
    job = client.submit("measure", model=model, label="many budgets")
    print(f"measuring in job {job.id}")
    for event in client.watch(job):
        if event.kind == "progress":
            print(f"{event.data['stage']}: {event.data['done']} of {event.data['total']}")
    job = client.wait(job)
    for budget_gb in map(float, budgets):
        plan = client.solve(job, budget_gb)
        plan.save(f"plan-{budget_gb:g}.json")
        print(f"{budget_gb:g} GB: {plan.bytes:,} bytes, predicted KL {plan.predicted_kl:.4f}")
