"""REDIS is the dotted path of a function that returns a client."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from redis.sentinel import Sentinel

from tests.backdoor import links
from tests.backdoor.breaker import stop_asking
from tests.models import Item
from tests.outages import wait_for_redis
from writebehind_app import Add
from writebehind_app.checks import check_settings

HERE = "tests.integration.test_factory"


class Vault(redis.CredentialProvider):
    """Gives a password that is in no settings."""

    def get_credentials(self) -> tuple[str, str]:
        return ("app", "geheim")


def by_vault() -> redis.Redis:
    url = django_settings.CACHES["writebehind"]["LOCATION"]
    return redis.Redis.from_url(url, credential_provider=Vault())


def by_sentinel() -> redis.Redis:
    known: Any = django_settings.SENTINELS_OF_A_TEST
    return Sentinel(known["SENTINELS"]).master_for(known["MASTER_NAME"], db=2)


def by_a_pool_that_waits() -> redis.Redis:
    url = django_settings.CACHES["writebehind"]["LOCATION"]
    return redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url))


def nothing() -> None:
    pass


def a_pool() -> redis.ConnectionPool:
    return redis.ConnectionPool()


def test_calls(redis_server, settings, database, configure):
    with redis_server.client() as client:
        client.execute_command("ACL SETUSER", "app", "on", ">geheim", "~*", "+@all")
        configure(REDIS=f"{HERE}.by_vault")
        Item.buffered.set(number=1, a=1)
        Item.buffered.set(number=1, a=Add(1))
        assert check_settings() == []
        assert Item.buffered.get(number=1).a == 2
        assert {each["user"] for each in client.client_list()} == {"default", "app"}
        Item.buffered.flush()
        assert Item.objects.get().a == 2
        client.execute_command("ACL DELUSER", "app")


def test_a_pool_that_waits(plain, configure):
    """Its disconnect() takes other arguments, in some releases of redis-py."""
    configure(REDIS=f"{HERE}.by_a_pool_that_waits")
    stop_asking()
    wait_for_redis()
    assert type(links.client().connection_pool) is redis.ConnectionPool
    assert Item.buffered.set(number=1).where == "pending"


def test_a_client_by_sentinel(sentinels, settings, configure):
    settings.SENTINELS_OF_A_TEST = sentinels.setting
    configure(REDIS=f"{HERE}.by_sentinel")
    Item.buffered.set(number=1, a=1)
    with redis.Redis(port=sentinels.nodes[0].port, db=2) as client:
        assert client.dbsize() > 0


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (f"{HERE}.nothing", "which returns a builtins.NoneType. Expected is a redis.Redis or "),
        (f"{HERE}.a_pool", "which returns a redis.connection.ConnectionPool. Expected is a redis."),
        (f"{HERE}.absent", "which cannot be imported: "),
        ("absent.client", "which cannot be imported: No module named 'absent'."),
        (f"{HERE}.HERE", "which is no function but a str."),
    ],
)
def test_a_broken_path(settings, path, why):
    settings.WRITEBEHIND = {"REDIS": path}
    [message] = check_settings()
    assert message.id == "writebehind.E003"
    assert message.msg.startswith(f"WRITEBEHIND['REDIS'] is '{path}', {why}")
    assert "path of a function that returns" in message.hint


def test_the_alias_of_a_cache_may_have_dots(settings):
    settings.CACHES = {**settings.CACHES, "a.b": settings.CACHES["writebehind"]}
    settings.WRITEBEHIND = {"REDIS": "a.b"}
    assert check_settings() == []
