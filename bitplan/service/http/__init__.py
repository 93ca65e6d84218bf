"""The HTTP API: who may ask for what, and how it is answered.

The web process does no heavy work: solving and reading run in processes of their own.
"""

from bitplan.service.http.app import make_app as make_app
from bitplan.service.http.state import Service as Service
