"""Allocation as a job: an HTTP API, a queue, workers, and a page where people see it.

No science in here: a job is a stage of `bitplan.pipeline` and its parameters.
"""
