"""Talks to a service, from a script or from the command line; needs httpx, and never torch.

What is asked and in which order is told once, in generators that do no input or output of network
(`verbs`); `transport` runs them with httpx, waiting (`Client`) or not (`AsyncClient`).
"""

from bitplan.service.client.answers import Frontier as Frontier
from bitplan.service.client.answers import Models as Models
from bitplan.service.client.answers import ModelSummary as ModelSummary
from bitplan.service.client.client import AsyncClient as AsyncClient
from bitplan.service.client.client import Client as Client
