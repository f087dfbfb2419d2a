"""How the buffers are doing, for Prometheus: a collector, and a view to include in a urlconf.

    path("metrics/writebehind/", include("writebehind_app.contrib.prometheus"))

or, where a project exports metrics of its own already, in the `ready()` of an app:

    prometheus_client.REGISTRY.register(WritebehindCollector())

It takes prometheus-client, which the extra `prometheus` of the package installs. Nothing in it is
secret: no address, no user, no value of a row.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from writebehind_app import registry, status
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.status import Look
from writebehind_app.store.connection import breakers, client

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImproperlyConfigured(
        f"writebehind_app.contrib.prometheus needs prometheus-client ({error}): "
        "pip install prometheus-client, or this package with its extra `prometheus`."
    ) from None

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
    then, and of the buffers on it nothing else is known than `writebehind_buffer_up`, which is 0,
    too. What is called a breaker's is of the process that is scraped."""

    def describe(self) -> Iterable[Metric]:
        """The names of all metrics, without a question to any server."""
        return [*_of_process(None), *_of_buffers(Look([], [], [])), *_of_redis({})]

    def collect(self) -> Iterable[Metric]:
        close_old_connections()  # a thread that is scraped knows no requests
        try:
            seen = status.look(list(registry.buffers().values()))
        finally:
            close_old_connections()
        up = not seen.away
        try:
            redis = status.of_redis(client().servers()) if up else {}
        except BufferUnavailable:
            up, redis = False, {}
        return [*_of_process(up), *_of_buffers(seen), *_of_redis(redis)]


def _of_process(up: bool | None) -> Iterable[Metric]:
    """None for names alone."""
    is_open, outages, failures = None, None, None
    if up is not None:
        known = breakers()
        is_open = any(each.is_open for each in known)
        outages = sum(each.outages for each in known)
        failures = sum(each.failures for each in known)
    yield GaugeMetricFamily("writebehind_up", "1 where Redis answers, each of them.", value=up)
    yield GaugeMetricFamily(
        "writebehind_breaker_open",
        "1 while this process does not use Redis, or only reads from it.",
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


def _of_buffers(seen: Look) -> Iterable[Metric]:
    found = seen.found
    reached = GaugeMetricFamily(
        "writebehind_buffer_up", "1 where the Redis of the buffer answers.", labels=["buffer"]
    )
    for one in found:
        reached.add_metric([one.label], 1)
    for each in seen.away:
        for buffer in each.buffers:
            reached.add_metric([buffer.label], 0)
    yield reached
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
