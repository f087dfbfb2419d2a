"""Starts the servers before pytest-django reads the settings, which name them."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests import servers


# A wrapper goes before every plain hook, and pytest-django's is one.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None]:
    try:
        servers.start()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if servers.absent and servers.services_required():
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in servers.absent.items())
        raise pytest.UsageError(f"REQUIRE_SERVICES is set, and there is no\n{reasons}")
    return (yield)


def pytest_report_header() -> list[str]:
    found = [name for name in servers.wanted_databases() if name not in servers.absent]
    kinds = [f"{server.kind} on port {server.port}" for server in servers.redis_servers.values()]
    return [f"databases: {', '.join(found)}", f"redis: {', '.join(kinds)}"]
