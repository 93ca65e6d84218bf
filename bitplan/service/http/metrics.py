"""Figures for Prometheus, by route template: never by address or token."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bitplan.service.records import State

BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """The figures of one app; each app has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bitplan_http_requests",
            "Requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._durations = Histogram(
            "bitplan_http_duration_seconds",
            "From request to the answer's end",
            ("method", "route"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._jobs = Gauge("bitplan_jobs", "Jobs by state", ("state",), registry=self.registry)
        self._streams = Gauge(
            "bitplan_event_streams", "Streams of events that are open", registry=self.registry
        )
        self._solves = Histogram(
            "bitplan_solve_seconds",
            "In the solver's process and on the way",
            ("what",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """One that was answered. An unknown method is one label, not as many as there are."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        if route not in _STREAMS:
            self._durations.labels(method, route).observe(duration_s)

    def solve(self, what: str, duration_s: float) -> None:
        """Something that the solver's process did."""
        self._solves.labels(what).observe(duration_s)

    def stream(self, change: int) -> None:
        """A stream of events opens, 1, or closes, -1."""
        self._streams.inc(change)

    def text(self, counts: dict[State, int]) -> bytes:
        """What is scraped; `counts` are of jobs by state."""
        for state in State:
            self._jobs.labels(state.value).set(counts.get(state, 0))
        return generate_latest(self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_STREAMS = frozenset({"/v1/jobs/{job_id}/events"})
