"""A Redis with a password, a user with few rights, TLS or a socket; and no secret that gets out."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command

from tests.admin import client, entries, page
from tests.backdoor.connection import RIGHTS, shown, sibling
from tests.backdoor.declarations import declare_only
from tests.backdoor.limits import limit
from tests.demo import wait_until
from tests.models import Item, Note, Owner, Visit
from tests.servers import RedisServer
from tests.servers.process import free_port
from tests.servers.sentinel import SentinelServer
from writebehind_app import Add, conf, doctor
from writebehind_app.database import deadletters
from writebehind_app.doctor.redis_server import Examined, access
from writebehind_app.exceptions import BufferUnavailable, WritebehindError
from writebehind_app.models import DeadLetter

SECRET = "Passw0rd-that-nobody-sees"
DOC = Path(__file__).parents[2] / "docs" / "redis.md"


@pytest.fixture(autouse=True)
def project(plain, monkeypatch) -> None:
    declare_only(monkeypatch, Item, Note, Visit)
    limit(monkeypatch, doctor_slow_redis=5.0)  # the machine may be busy


def with_user(redis: RedisServer, *rights: str) -> str:
    """The URL of a user with just these rights."""
    with redis.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{SECRET}", *rights)
    return redis.url.replace("//", f"//app:{SECRET}@")


def call_all() -> None:
    """Every verb of each kind of buffer, what brings it to the database, and what looks at it."""
    owner = Owner.objects.create(name="o")
    number = owner.pk
    items, visits = Item.buffered, Visit.buffered
    notes = Note.buffered.of(page="p", owner=owner)
    items.set(number=number, a=Add(1), once=f"first {number}")
    items.set(number=number, a=Add(1), b="x" * 50)
    items.set_many([{"number": -number, "a": 1}, {"number": number, "c": "c"}])
    assert items.set_if({"a": 2}, number=number, a=3)
    items.create(number=10**6 + number)
    items.delete(number=-number)
    receipt = items.set(number=number, d=2.0)
    assert items.get(number=number).a == 3
    assert receipt.where == "pending"
    assert items.pending()
    assert items.count_pending()
    notes.update(a=1, b={"x": 1})
    assert notes.pop("a") == 1
    assert notes.setdefault("c", 3) == 3
    assert dict(notes) == {"b": {"x": 1}, "c": 3}
    visits.append(event=number, email="a", registered_at="2026-01-01T00:00:00Z")
    visits.extend([{"event": number, "email": text} for text in "bc"])
    assert visits.count(event=number) == 3
    assert visits.discard(event=number, email="c") == 1
    assert items.discard(number=10**6 + number) == 1
    items.flush(number=number)
    assert receipt.persisted
    items.set(number=10**7 + number, a=1)
    Note.buffered.of(page="p", owner=10**9).update(dead=1)
    with suppress(SystemExit):  # for the one that dies
        call_command("flush_writebehind", "--all", "--no-progress", stdout=StringIO())
    assert items.count_pending() == 0
    assert DeadLetter.objects.count() == 1
    call_command("writebehind_deadletters", "list", stdout=StringIO())
    for letter in DeadLetter.objects.all():
        assert deadletters.retry(Note.buffered, [letter.pk]) == (0, 1)
        deadletters.discard(Note.buffered, [letter.pk])
    items.discard()
    assert visits.window(event=number)[0].email == "a"


@pytest.fixture(params=RedisServer.KINDS)
def limited(request, plain) -> Iterator[RedisServer]:
    with RedisServer(request.param) as server:
        yield server


class TestRights:
    def test_those_of_the_list_are_enough(self, limited, configure):
        configure(REDIS=with_user(limited, *RIGHTS()))
        call_all()
        levels = {f.id for f in doctor.examine() if f.level == "error"}
        assert levels == set()
        if limited.kind == "valkey":  # Redis has WAITAOF from 7.2 on
            configure(REDIS=with_user(limited, *RIGHTS(), "+waitaof"), DURABILITY="fsync")
            Item.buffered.set(number=1, a=1)

    def test_without_one_of_them_the_doctor_says_so(self, limited, configure):
        for right in RIGHTS():
            configure(REDIS=with_user(limited, *(r for r in RIGHTS() if r != right)))
            with sibling(5.0) as client:
                examined = Examined(client, {}, [])
                found = [f for f in access(examined) if f.level == "error"]
            assert found, right

    @pytest.mark.parametrize(
        "right",
        ["hgetall", "rename", "rpush", "zrem", "hget", "zadd", "hset", "hdel", "unlink", "evalsha"],
    )
    def test_without_one_of_them_nothing_is_lost(self, limited, configure, right):
        configure(REDIS=with_user(limited, *RIGHTS()), LEASE=0.1, BACKOFF=0.001)
        Item.buffered.set(number=1, a=1)
        lesser = [r for r in RIGHTS() if r != f"+{right}"]
        configure(REDIS=with_user(limited, *lesser))
        for call in (
            lambda: Item.buffered.set(number=1, a=2),
            lambda: Item.buffered.get(number=1),
            lambda: Item.buffered.flush(),
        ):
            with suppress(WritebehindError):
                call()
        configure(REDIS=with_user(limited, *RIGHTS()))
        Item.buffered.flush()
        assert Item.objects.filter(number=1).exists()
        assert not DeadLetter.objects.exists()

    @pytest.mark.parametrize("order", ["", "newest"])
    def test_they_are_enough_for_the_pages_of_the_admin(
        self, limited, configure, monkeypatch, order
    ):
        configure(REDIS=with_user(limited, *RIGHTS()), SHARDS=2)
        limit(monkeypatch, admin_page=2)
        Item.buffered.set_many({"number": n} for n in range(7))
        Visit.buffered.extend({"event": n, "email": "a"} for n in range(7))
        for label in ("tests.Item", "tests.Visit"):
            further, found = f"?order={order}", []
            while further:
                text = page(client("view"), entries(label) + further)
                found += re.findall(r'scope="row"><a [^>]*>(?:number|event)=(\d)', text)
                further = (re.findall(r'href="(\?[^"]*)">Next page', text) or [""])[0]
            assert sorted(found) == [*"0123456"]

    def test_of_another_prefix_nothing_is_reached(self, limited, configure):
        configure(REDIS=with_user(limited, *RIGHTS()), PREFIX="other")
        with pytest.raises(BufferUnavailable, match=r"(?i)no permission|access"):
            Item.buffered.set(number=1, a=1)

    def test_the_docs_have_the_list(self, configure):
        commands = [right for right in RIGHTS() if right.startswith("+")]
        text = " ".join(DOC.read_text().split())
        assert " ".join(commands) in text


class TestWays:
    def test_a_unix_socket(self, plain, configure, tmp_path):
        path = tmp_path / "redis.sock"
        with RedisServer("valkey", unixsocket=str(path), unixsocketperm="700"):
            configure(REDIS=f"unix://{path}?db=2")
            call_all()
            (address,) = {f.what for f in doctor.examine() if f.id == "writebehind.E101"} or {""}
            assert not address
        with pytest.raises(BufferUnavailable):
            Item.buffered.set(number=1, a=1)


class TestTls:
    @pytest.fixture
    def options(self, certificates) -> dict[str, str]:
        """Of a server."""
        authority, certificate, key, _ = certificates
        return {
            "tls-port": str(free_port()),
            "tls-cert-file": str(certificate),
            "tls-key-file": str(key),
            "tls-ca-cert-file": str(authority),
            "tls-auth-clients": "no",
        }

    @pytest.fixture(autouse=True)
    def _database(self, plain):
        pass

    def check(self, configure, certificates, setting_for: Callable[[str], Any]) -> None:
        """Whoever has a certificate of another authority is not believed."""
        authority, *_, other = map(str, certificates)
        configure(REDIS=setting_for(authority))
        call_all()
        assert not [f for f in doctor.examine() if f.level == "error"]
        configure(REDIS=setting_for(other))
        with pytest.raises(BufferUnavailable, match=r"(?i)certificate"):
            Item.buffered.set(number=1, a=1)

    def test_one_server(self, configure, certificates, options):
        with RedisServer("redis", **options) as redis:
            user = with_user(redis, *RIGHTS()).partition("@")[0].partition("//")[2]
            url = f"rediss://{user}@127.0.0.1:{options['tls-port']}/0?ssl_ca_certs="
            self.check(configure, certificates, lambda authority: f"{url}{authority}")

    @pytest.mark.slow
    def test_a_cluster(self, configure, certificates, options):
        of_cluster = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "tls-cluster": "yes",
        }
        with RedisServer("redis", **options, **of_cluster) as redis, redis.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER INFO"))
            url = f"rediss://127.0.0.1:{options['tls-port']}"
            self.check(
                configure,
                certificates,
                lambda authority: {"CLUSTER": [url], "NODE_KWARGS": {"ssl_ca_certs": authority}},
            )

    @pytest.mark.slow
    def test_sentinels(self, configure, certificates, options):
        """They and the master are asked by TLS."""
        own = {**options, "tls-port": str(free_port()), "tls-replication": "yes"}
        name = f"tls-{options['tls-port']}"
        with (
            RedisServer("redis", **options),
            SentinelServer("redis", name, int(options["tls-port"]), 1, **own),
        ):
            self.check(
                configure,
                certificates,
                lambda authority: {
                    "SENTINELS": [["127.0.0.1", int(own["tls-port"])]],
                    "MASTER_NAME": name,
                    "SENTINEL_KWARGS": {"ssl": True, "ssl_ca_certs": str(certificates[0])},
                    "MASTER_KWARGS": {"ssl": True, "ssl_ca_certs": authority},
                },
            )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> list[Path]:
    """Of an authority, of the server and its key, and of another authority."""
    at = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=at, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    new += ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 wants to know
    for name in ("authority", "other"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl(
        *new[:1],
        *("-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr"),
        *("-subj", "/CN=redis"),
    )
    (at / "ext").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key"),
        *("-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", "server.pem"),
    )
    return [at / name for name in ("authority.pem", "server.pem", "server.key", "other.pem")]


class TestSecrets:
    """Whatever goes wrong, what is said of it does not have the password."""

    @contextmanager
    def silent(self, caplog, capsys) -> Iterator[list[str]]:
        said: list[str] = []
        caplog.set_level(logging.DEBUG)
        yield said
        said += [caplog.text, *capsys.readouterr()]
        text = "\n".join(said)
        assert text.strip()
        assert SECRET not in text

    def all_that_is_said(self) -> Iterator[str]:
        for call in (
            lambda: Item.buffered.set(number=1, a=Add(1)),
            lambda: Item.buffered.get(number=1),
            lambda: Item.buffered.flush(),
            lambda: Visit.buffered.append(event=1, email="x"),
            lambda: call_command("flush_writebehind", "--all", "--no-progress"),
            lambda: call_command("writebehind_doctor"),
            lambda: call_command("writebehind_doctor", "--json"),
        ):
            try:
                yield repr(call())
            except (Exception, SystemExit) as error:  # noqa: BLE001 - all of them are looked at
                yield "".join(traceback.format_exception(error))
                yield from locals_of(error)
        yield repr(checks.run_checks(include_deployment_checks=True, tags=["writebehind"]))
        yield json.dumps([repr(conf.settings()), *shown()])

    @pytest.mark.parametrize("state", ["up", "down", "wrong password", "no rights"])
    def test_of_a_server(self, limited, configure, caplog, capsys, state):
        rights = ["+ping"] if state == "no rights" else RIGHTS()
        url = with_user(limited, *rights)
        if state == "wrong password":
            with limited.client() as admin:
                admin.execute_command("ACL", "SETUSER", "app", "resetpass", ">another")
        configure(REDIS=url, SOCKET_TIMEOUT=0.2, LEASE=0.5)
        if state == "down":
            limited.stop()
        with self.silent(caplog, capsys) as said:
            said += self.all_that_is_said()

    @pytest.mark.outage
    def test_of_a_server_that_is_frozen(self, configure, caplog, capsys):
        with RedisServer("valkey") as redis:
            configure(REDIS=with_user(redis, *RIGHTS()), SOCKET_TIMEOUT=0.2, LEASE=0.5)
            redis.pause()
            with self.silent(caplog, capsys) as said:
                said += self.all_that_is_said()

    def test_of_a_cache(self, limited, configure, settings, caplog, capsys):
        with_user(limited, *RIGHTS())
        backend = {"BACKEND": "django_redis.cache.RedisCache", "OPTIONS": {"PASSWORD": SECRET}}
        # Older releases of django-redis have no option for the user.
        location = limited.url.replace("redis://", "redis://app@")
        settings.CACHES = {**settings.CACHES, "secret": {**backend, "LOCATION": location}}
        configure(REDIS="secret")
        Item.buffered.set(number=1, a=1)
        limited.stop()
        with self.silent(caplog, capsys) as said:
            said += self.all_that_is_said()

    @pytest.mark.parametrize(
        "where",
        [
            f"redis://app:{SECRET}@127.0.0.1:port/0",
            f"redis://:{SECRET}@[127.0.0.1:6379/0",
            f"redis://127.0.0.1:6379/0?password={SECRET}&db=x",
            f"http://app:{SECRET}@127.0.0.1/0",
            f"app:{SECRET}@127.0.0.1",
            f"redis://app:{SECRET}/x@127.0.0.1:6379/0",
        ],
    )
    def test_of_a_wrong_setting(self, configure, caplog, capsys, where):
        configure(REDIS=where)
        with self.silent(caplog, capsys) as said:
            said.append(repr(checks.run_checks(tags=["writebehind"])))
            try:
                Item.buffered.set(number=1, a=1)
            except Exception as error:  # noqa: BLE001 - whatever it is
                said.append("".join(traceback.format_exception(error)))


def locals_of(error: BaseException) -> Iterator[str]:
    """What a page for debugging would show of the package's own frames."""
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if "writebehind_app" in frame.f_code.co_filename:
                for value in frame.f_locals.values():
                    try:
                        yield repr(value)
                    except Exception as unsaid:  # noqa: BLE001 - one that is not made yet
                        yield repr(unsaid)
        seen = seen.__cause__ or seen.__context__
