"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tunerun.service.core.answerer import Answerer
from tunerun.service.core.state import State
from tunerun.service.core.tuner import Tuner


class ServiceMetrics:
    """The metrics of one service: requests are counted as they complete, gauges are read when Prometheus scrapes.

    Args:
        state: counts the tuned models.
        tuner: counts the jobs.
        answerer: counts the queued prompts.
    """

    def __init__(self, state: State, tuner: Tuner, answerer: Answerer) -> None:
        # Not prometheus_client's global registry: a second service in the process would register its names again, which
        # raises a ValueError.
        self._registry = CollectorRegistry()
        self._registry.register(_Now(state, tuner, answerer))
        self._requests = Counter(
            "tunerun_requests", "Requests answered.", ["wire", "method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "tunerun_request_seconds",
            "Time to the end of the response.",
            ["wire", "method", "route"],
            registry=self._registry,
        )

    def answered(self, wire: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count a completed request.

        Args:
            wire: the name of its wire.
            method: the HTTP method.
            route: the path with parameter names in place of values, which bounds the number of series.
            status: the HTTP status.
            seconds: from the request's arrival to the end of its response.
        """
        self._requests.labels(wire, method, route, str(status)).inc()
        self._seconds.labels(wire, method, route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    # Read when Prometheus scrapes: a gauge that each change of the queue had to set could miss one, such as a crash.

    def __init__(self, state: State, tuner: Tuner, answerer: Answerer) -> None:
        self._state = state
        self._tuner = tuner
        self._gauges: dict[str, tuple[str, Callable[[], int]]] = {
            "tunerun_jobs_running": ("Tuning jobs that an engine trains now.", lambda: tuner.running),
            "tunerun_jobs_waiting": ("Tuning jobs that wait to be trained.", lambda: tuner.waiting),
            "tunerun_prompts_waiting": ("Prompts that wait for an answer.", lambda: answerer.waiting),
        }

    def collect(self) -> Iterator[Metric]:
        """Collect current gauge values."""
        models = GaugeMetricFamily("tunerun_tuned_models", "Tuned models by state.", labels=["state"])
        for state, count in self._state.counts().items():
            models.add_metric([state.value], count)
        yield models
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value())
        yield CounterMetricFamily("tunerun_steps", "Optimiser steps taken since the start.", value=self._tuner.steps)
