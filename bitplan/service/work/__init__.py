"""Who does the jobs: the queue, workers, and a process for each job.

A worker takes an id from the queue and claims the job in the database. The job runs in a process of
its own, which ends with its worker; its work folder keeps what a later attempt goes on from.
"""

from bitplan.service.work.queue import Queue as Queue
from bitplan.service.work.validate import check as check
from bitplan.service.work.worker import Worker as Worker
from bitplan.service.work.worker import run_worker as run_worker
