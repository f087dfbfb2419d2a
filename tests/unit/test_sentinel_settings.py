"""What `check` says of a setting REDIS for Sentinel. No server is asked."""

from __future__ import annotations

import re
import secrets

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from tests.models import Item
from writebehind_app.checks import check_settings

SENTINELS = [("10.0.0.1", 26379)]
ADDRESSES = r"Expected is a list of \(host, port\), as \[\('10\.0\.0\.1', 26379\), "
SOUND = {"SENTINELS": SENTINELS, "MASTER_NAME": "mymaster"}


def messages() -> list[checks.CheckMessage]:
    found = check_settings()
    assert {message.id for message in found} <= {"writebehind.E003"}
    return found


@pytest.mark.parametrize(
    "redis",
    [
        SOUND,
        {**SOUND, "SENTINELS": [["a.example.com", 1], ("b.example.com", 2)]},
        {**SOUND, "SENTINEL_KWARGS": {"password": "x", "ssl": True}},
        {**SOUND, "MASTER_KWARGS": {"db": 1, "max_connections": 5, "username": "x"}},
        {**SOUND, "MASTER_KWARGS": {"ssl": True, "ssl_ca_certs": "/etc/ca.pem"}},
    ],
)
def test_sound(settings, redis):
    settings.WRITEBEHIND = {"REDIS": redis}
    assert messages() == []


@pytest.mark.parametrize(
    ("redis", "why"),
    [
        ({}, rf"\['REDIS'\] has no 'SENTINELS'\. {ADDRESSES}"),
        ({"SENTINELS": SENTINELS}, r"\['REDIS'\] has no 'MASTER_NAME'. Expected is the name"),
        ({**SOUND, "MASTER": 1}, r"has the key 'MASTER', which is none of SENTINELS, MASTER_N"),
        ({**SOUND, "SENTINELS": "h:1"}, rf"\['SENTINELS'\] is 'h:1'\. {ADDRESSES}"),
        ({**SOUND, "SENTINELS": []}, rf"\['SENTINELS'\] is \[\]\. {ADDRESSES}"),
        ({**SOUND, "SENTINELS": ["h:1"]}, rf"is a list with 'h:1' in it\. {ADDRESSES}"),
        ({**SOUND, "SENTINELS": [("h", "1")]}, rf"with the port '1' in it\. {ADDRESSES}"),
        ({**SOUND, "SENTINELS": [("h", 65536)]}, rf"with the port 65536 in it\. {ADDRESSES}"),
        ({**SOUND, "SENTINELS": [("", 1)]}, rf"with the host '' in it\. {ADDRESSES}"),
        ({**SOUND, "MASTER_NAME": 1}, r"\['MASTER_NAME'\] is 1\. Expected is the name of the"),
        ({**SOUND, "SENTINEL_KWARGS": "x"}, r"\['SENTINEL_KWARGS'\] is of the type str\. Exp"),
        ({**SOUND, "SENTINEL_KWARGS": {"pasword": "y"}}, r"KWARGS'\] is refused.*'pasword'"),
        ({**SOUND, "MASTER_KWARGS": ["x"]}, r"\['MASTER_KWARGS'\] is of the type list\. Exp"),
        (
            {**SOUND, "MASTER_KWARGS": {"pasword": "y"}},
            r"MASTER_KWARGS'\] is refused.*'pasword",
        ),
        ({**SOUND, "MASTER_KWARGS": {"host": "h"}}, r"MASTER_KWARGS'\] has the key 'host'"),
        (
            {**SOUND, "MASTER_KWARGS": {"db": "x"}},
            r"KWARGS'\]\['db'\] is 'x'\. Expected is a num",
        ),
        (
            {**SOUND, "SENTINEL_KWARGS": {"socket_timeout": "x"}},
            r"\['SENTINEL_KWARGS'\]\['socket_timeout'\] is 'x'\. Expected is a number",
        ),
    ],
)
def test_a_broken_dict(settings, redis, why):
    settings.WRITEBEHIND = {"REDIS": redis}
    [message] = messages()
    assert message.msg.startswith("WRITEBEHIND['REDIS']")
    assert re.search(why, message.msg), message.msg
    assert "'MASTER_NAME': name" in message.hint


@pytest.mark.parametrize(
    "redis",
    [
        {**SOUND, "SENTINELS": ["redis://:geheim@h:1"]},
        {**SOUND, "SENTINELS": "redis://:geheim@h:1"},
        {**SOUND, "SENTINEL_KWARGS": {"password": "geheim", "x": 1}},
        {**SOUND, "MASTER_KWARGS": "password=geheim"},
        {**SOUND, "MASTER_KWARGS": {"password": "geheim", "x": 1}},
    ],
)
def test_no_password_is_shown(settings, redis):
    settings.WRITEBEHIND = {"REDIS": redis}
    [message] = messages()
    assert "geheim" not in str(message)
    with pytest.raises(ImproperlyConfigured) as caught:
        Item.buffered.set(number=1)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"SENTINELS": ["h:1"]},
            rf"OPTIONS\['SENTINELS'\] is a list with 'h:1' in.*{ADDRESSES}",
        ),
        ({"SENTINELS": []}, r"OPTIONS\['SENTINELS'\] is \[\]"),
        ({"CONNECTION_FACTORY": None}, r"cannot be used: .*DJANGO_REDIS_CONNECTION_FACTORY"),
        (
            {
                "CONNECTION_FACTORY": None,
                "CONNECTION_POOL_CLASS": "redis.sentinel.SentinelConnectionPool",
            },
            r"cannot be used: .*'service_name' and 'sentinel_manager'",
        ),
    ],
)
def test_a_broken_cache(settings, options, why):
    cache = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"redis://{secrets.token_hex(8)}/0",  # for which there is no pool yet
        "OPTIONS": {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
            "SENTINELS": SENTINELS,
            **options,
        },
    }
    settings.CACHES = {**settings.CACHES, "sentinel": cache}
    settings.WRITEBEHIND = {"REDIS": "sentinel"}
    [message] = messages()
    assert re.search(why, message.msg), message.msg
