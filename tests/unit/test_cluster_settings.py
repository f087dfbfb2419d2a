"""What `check` says of a setting REDIS for a cluster. No server is asked."""

from __future__ import annotations

import re

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from tests.models import Item
from writebehind_app.checks import check_settings

NODES = ["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]
URLS = r"Expected is a list of URLs of nodes, as \['redis://10\.0\.0\.1:6379', "


def messages() -> list[checks.CheckMessage]:
    found = check_settings()
    assert {message.id for message in found} <= {"writebehind.E003"}
    return found


@pytest.mark.parametrize(
    "redis",
    [
        {"CLUSTER": NODES},
        {"CLUSTER": (NODES[0],)},
        {"CLUSTER": ["redis://u:p@a.example.com", "redis://u:p@b.example.com:7000/0"]},
        {"CLUSTER": ["rediss://:p@a:1?ssl_ca_certs=/etc/ca.pem"]},
        {"CLUSTER": NODES, "NODE_KWARGS": {"password": "x", "max_connections": 5}},
    ],
)
def test_sound(settings, redis):
    settings.WRITEBEHIND = {"REDIS": redis}
    assert messages() == []


@pytest.mark.parametrize(
    ("redis", "why"),
    [
        ({"CLUSTER": []}, rf"\['CLUSTER'\] is \[\]\. {URLS}"),
        ({"CLUSTER": NODES[0]}, rf"\['CLUSTER'\] is 'redis://10\.0\.0\.1:6379'\. {URLS}"),
        ({"CLUSTER": [("h", 1)]}, rf"is a list with \('h', 1\) in it\. {URLS}"),
        ({"CLUSTER": ["unix:///x"]}, rf"is a list with 'unix:///x' in it\. {URLS}"),
        ({"CLUSTER": ["redis://h:x"]}, rf"has the URL 'redis://h:x', which .* not under.* {URLS}"),
        ({"CLUSTER": ["redis://h:1/2"]}, r"has the URL 'redis://h:1/2', and a cluster has no dat"),
        ({"CLUSTER": ["redis://h", "rediss://h"]}, r"URLs that differ in more than host and port"),
        ({"CLUSTER": ["redis://h", "redis://:p@h"]}, r"URLs that differ in more than host and po"),
        ({"CLUSTER": NODES, "MASTER_NAME": "x"}, r"has the key 'MASTER_NAME', which is none of C"),
        ({"CLUSTER": NODES, "NODE_KWARGS": "x"}, r"\['NODE_KWARGS'\] is of the type str\. Expect"),
        ({"CLUSTER": NODES, "NODE_KWARGS": {"port": 1}}, r"has the key 'port', which CLUSTER says"),
        ({"CLUSTER": NODES, "NODE_KWARGS": {"pasword": 1}}, r"is refused by redis-py: .*pasword"),
        ({"CLUSTER": NODES, "NODE_KWARGS": {"db": 1}}, r"has the key 'db', and a cluster has no d"),
    ],
)
def test_a_broken_dict(settings, redis, why):
    settings.WRITEBEHIND = {"REDIS": redis}
    [message] = messages()
    assert message.msg.startswith("WRITEBEHIND['REDIS']")
    assert re.search(why, message.msg), message.msg
    assert "{'CLUSTER': ['redis://host:port', …]}" in message.hint


@pytest.mark.parametrize(
    "redis",
    [
        {"CLUSTER": "redis://:geheim@h:1"},
        {"CLUSTER": ["redis://:geheim@h:x"]},
        {"CLUSTER": ["redis://:geheim@h:1/2"]},
        {"CLUSTER": ["http://:geheim@h:1"]},
        {"CLUSTER": ["redis://:geheim@h:1", "redis://h:1"]},
        {"CLUSTER": NODES, "NODE_KWARGS": {"password": "geheim", "x": 1}},
        {"CLUSTER": NODES, "NODE_KWARGS": "password=geheim"},
    ],
)
def test_no_password_is_shown(settings, redis):
    settings.WRITEBEHIND = {"REDIS": redis}
    [message] = messages()
    assert "geheim" not in str(message)
    with pytest.raises(ImproperlyConfigured) as caught:
        Item.buffered.set(number=1)
    assert "geheim" not in str(caught.value)
