"""How the buffers are doing, for Prometheus: a collector, and a view to include in a urlconf.

    path("metrics/writebehind/", include("writebehind_app.contrib.prometheus"))

or, where a project exports metrics of its own already, in the `ready()` of an app:

    prometheus_client.REGISTRY.register(WritebehindCollector())

It takes prometheus-client: pip install django-writebehind[prometheus]. Nothing in it is secret: no
address, no user, no value of a row.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from writebehind_app import registry, sampling, status
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.status import Status
from writebehind_app.store.connection import breaker, client

# Of each buffer; by the names of Status.
_GAUGES = {
    "pending": "Entries that wait to be flushed, without those in flight.",
    "in_flight": "Entries that a flusher has claimed.",
    "oldest_seconds": "How long the oldest entry has waited; 0 where there is none.",
    "dead_letters": "Entries that the database refused; missing where it cannot be asked.",
    "paused": "1 while the buffer is not to be flushed.",
    "attempts": "How often a batch in flight failed so far, of the shard where that was most.",
    "seconds": "How long the last batch took, of the shard where that was longest.",
}
_COUNTERS = {
    "accepted": "Writes that Redis took.",
    "flushed": "Entries that left Redis with their batch.",
    "rows": "Rows that were written or deleted.",
    "batches": "Batches that were done with.",
    "retries": "Batches that were given back, to be tried again.",
    "buried": "Entries that became dead letters.",
    "fallbacks": "Writes and reads that went around Redis, as it was away or full.",
}
# Where it is called otherwise here.
_NAMES = {"seconds": "batch_seconds", "attempts": "failed_attempts"}


class WritebehindCollector(Collector):
    """Reads all of it when it is scraped. A Redis that is away is no error: `writebehind_up` is 0
    then, and nothing else is known of it. What is called a breaker's is of the process that is
    scraped."""

    def describe(self) -> Iterable[Metric]:
        """What there may be: whoever registers it asks no server."""
        return [*_of_process(None), *_of_buffers([]), *_of_redis({})]

    def collect(self) -> Iterable[Metric]:
        close_old_connections()  # a thread that is scraped knows no requests
        try:
            up, found = True, status.read(client(), list(registry.buffers().values()))
            sampling.take(client())
        except BufferUnavailable:
            up, found = False, []
        finally:
            close_old_connections()
        try:
            redis = status.of_redis(client()) if up else {}
        except BufferUnavailable:
            up, redis = False, {}
        return [*_of_process(up), *_of_buffers(found), *_of_redis(redis)]


def _of_process(up: bool | None) -> Iterable[Metric]:
    """None for names alone."""
    is_open, outages, failures = None, None, None
    if up is not None:
        known = breaker()
        is_open, outages, failures = known.is_open, known.outages, known.failures
    yield GaugeMetricFamily("writebehind_up", "1 where Redis answers.", value=up)
    yield GaugeMetricFamily(
        "writebehind_breaker_open",
        "1 while this process asks Redis no more, or only to read.",
        value=is_open,
    )
    yield CounterMetricFamily(
        "writebehind_breaker_outages",
        "How often this process found that Redis was away.",
        value=outages,
    )
    yield CounterMetricFamily(
        "writebehind_breaker_failures",
        "Calls of this process that Redis did not take, or was not asked to.",
        value=failures,
    )


def _of_buffers(found: list[Status]) -> Iterable[Metric]:
    for name, text in _GAUGES.items():
        gauge = GaugeMetricFamily(f"writebehind_{_NAMES.get(name, name)}", text, labels=["buffer"])
        for one in found:
            if (value := getattr(one, name)) is not None:
                gauge.add_metric([one.label], value)
        yield gauge
    for name, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"writebehind_{name}", text, labels=["buffer"])
        for one in found:
            counter.add_metric([one.label], one.counters[name])
        yield counter


def _of_redis(found: dict[str, object]) -> Iterable[Metric]:
    for name, text in (
        ("used_memory", "Bytes that Redis uses."),
        ("maxmemory", "Bytes that Redis may use; 0: all there are."),
    ):
        gauge = GaugeMetricFamily(f"writebehind_redis_{name}_bytes", text)
        if name in found:
            gauge.add_metric([], float(str(found[name])))
        yield gauge


_registry = CollectorRegistry()
_registry.register(WritebehindCollector())


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_registry), content_type=content_type)


urlpatterns = [path("", metrics, name="writebehind-metrics")]
