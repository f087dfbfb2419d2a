"""The examples of docs/ that no other test carries out.

test_examples.py copies this file into a project of its own, and runs it there. The models that a
page declares are in an app that is called as the page.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import deploys.models
import django_q2.models
import flushing.models
import log.models
import metadata.models
import pytest
import reading.models
import redis
import shop
import writing.models
from django.apps import AppConfig
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.urls import include, path
from shop.models import Account, Line, Ticket

from tests.backdoor.connection import problem_of
from tests.documents import DOCS, ROOT, blocks
from writebehind_app import Add, BufferedAdmin, LogBuffer, tasks
from writebehind_app.checks import check_settings
from writebehind_app.models import DeadLetter
from writebehind_app.signals import dead_lettered
from writebehind_app.testing import flush

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("writebehind")]

ELSEWHERE = {
    "living-with-the-orm.md": "test_living_with_the_orm.py",
    "schedulers.md": "test_schedulers.py",
    "testing.md": "test_testing.py",
    "tutorial.md": "test_readme.py",
}
_seen: set[str] = set()


def example(page: str, part: str) -> str:
    """The example of a page that has this in it."""
    found = blocks(ROOT / "docs" / page)
    [code] = [code for language, code in found if language == "python" and part in code]
    _seen.add(code)
    return code


def run(code: str, **names: Any) -> dict[str, Any]:
    """Carry it out among these names. Return them all."""
    names.setdefault("__name__", "shop.example")
    exec(code, names)
    return names


# Writing


@pytest.mark.parametrize("page", ["writing.md", "reference/operations.md"])
def test_operations(page):
    Ticket.buffered.set(number=5, views=1, position=7, extra={"seen": True})
    run(example(page, "from writebehind_app import Add"), Ticket=Ticket)
    flush()
    ticket = Ticket.objects.get(number=5)
    assert (ticket.views, ticket.position) == (2, 120)
    assert ticket.extra == {"seen": True, "vip": True}


def test_a_set():
    run(example("explanation/write.md", "Ticket.buffered.set("), Ticket=Ticket, Add=Add)
    assert Ticket.buffered.get(number=5).views == 1


def test_a_check_of_the_project():
    example("writing.md", "class TicketBuffer")
    with pytest.raises(ValidationError, match="Say how it was solved"):
        writing.models.Ticket.buffered.set(number=5, status="solved")
    writing.models.Ticket.buffered.set(number=5, status="solved", solution="Turned on.")


def test_metadata():
    code = example("metadata.md", "class LessonMeta")
    user = User.objects.create(username="ada")
    _, usage = code.split("\n\n\n")
    LessonMeta = metadata.models.LessonMeta
    LessonMeta.buffered.of(lesson_id=7, user=user)["draft"] = "x"
    found = run(usage, LessonMeta=LessonMeta, Add=Add, request=SimpleNamespace(user=user))
    assert dict(found["meta"]) == {"section": 3, "done": True, "seconds": 15}
    assert LessonMeta.objects.count() == 3


def test_a_log():
    example("log.md", "class Registration")
    buffer = log.models.Registration.buffered
    buffer.append(event_id=9, email="a@b.org")
    flush()
    buffer.append(event_id=9, email="b@b.org")
    assert [each.email for each in buffer.window(event_id=9)] == ["a@b.org", "b@b.org"]


def test_reading_from_redis_alone(django_assert_num_queries):
    example("reading.md", "class Ticket(")
    reading.models.Ticket.objects.create(number=5)
    reading.models.Ticket.buffered.get(number=5)
    with django_assert_num_queries(0):
        assert reading.models.Ticket.buffered.get(number=5).status == "open"


def test_together():
    user = User.objects.create(username="ada")
    meta = metadata.models.LessonMeta.buffered.of(lesson_id=7, user=user)
    names = {"Ticket": Ticket, "Line": Line, "meta": meta, "Add": Add}
    run(example("together.md", "import writebehind_app"), **names)
    assert Ticket.buffered.get(number=5).status == "solved"
    assert dict(meta) == {"section": 4, "seconds": 15}
    assert Line.buffered.count() == 1


def test_a_repeat():
    Account.objects.create(number=5)
    code = example("outages.md", "Account.buffered.set(")
    for _ in range(2):
        run(code, Account=Account, Add=Add, payment=SimpleNamespace(pk=7))
    flush()
    assert Account.objects.get().credit == 10


# Flushing


def test_a_hook():
    example("flushing.md", "class TicketBuffer")
    flushing.models.indexed.clear()
    flushing.models.Ticket.buffered.set(number=5, status="open")
    flush()
    assert flushing.models.indexed == [5]


def test_at_once():
    example("django-q2.md", "def is_resolved")
    buffer = django_q2.models.Ticket.buffered
    buffer.set(number=5, status="open")
    assert tasks.flush_due()["rows"] == 0
    buffer.set(number=5, status="resolved")
    assert tasks.flush_due()["rows"] == 1


def test_the_settings_of_django_q2():
    cluster = run(example("django-q2.md", "Q_CLUSTER"))["Q_CLUSTER"]
    assert cluster["retry"] > cluster["timeout"]


def test_an_older_version():
    example("deploys.md", "class TicketBuffer")
    buffer = deploys.models.Ticket.buffered
    assert buffer.version == 2
    assert buffer.upgrade({"status": "open"}, 0) == {"state": "open"}
    buffer.set(number=5, state="open")
    flush()
    assert deploys.models.Ticket.objects.get().state == "open"


def refuse(*numbers: int) -> QuerySet[DeadLetter]:
    """Dead letters of tickets with these numbers."""
    for number in numbers:
        Ticket.buffered.set(number=number, status="refused")
    assert flush().dead_letters == len(numbers)
    return DeadLetter.objects.order_by("pk")


def test_a_dead_letter_that_is_mended():
    for id, letter in zip((17, 18), refuse(5, 6), strict=True):
        DeadLetter.objects.filter(pk=letter.pk).update(id=id)
    run(example("dead-letters.md", "from writebehind_app.database"), Ticket=Ticket)
    assert list(Ticket.objects.values_list("number", "status")) == [(5, "open")]
    assert not DeadLetter.objects.exists()


def test_a_receiver(capsys):
    found = run(example("reference/signals.md", "from django.dispatch"))
    refuse(5)
    assert dead_lettered.disconnect(found["tell"])
    assert capsys.readouterr().out.startswith("shop.Ticket.buffered: IntegrityError: ")


# Pages for people and monitors


def test_an_admin():
    code = example("admin.md", "from writebehind_app import BufferedAdmin")
    run(code, admin=admin, Ticket=Ticket)
    assert isinstance(admin.site.get_model_admin(Ticket), BufferedAdmin)


def test_another_site():
    other = admin.AdminSite("other")
    run(example("admin.md", "from writebehind_app.admin"), other_site=other)
    assert other.is_registered(DeadLetter)


@pytest.mark.parametrize(
    ("page", "part", "url"),
    [
        ("monitoring.md", "writebehind_app.health", "health/writebehind/"),
        ("monitoring.md", 'contrib.prometheus")), ...', "metrics/writebehind/"),
        ("endpoints.md", "urlpatterns", "api/lessons/7/progress/"),
    ],
)
def test_urls(page, part, url):
    code = example(page, part)
    if "prometheus" in code:
        pytest.importorskip("prometheus_client")
    pattern, *_ = run(code, path=path, include=include)["urlpatterns"]
    assert pattern.resolve(url)


def test_a_collector():
    code = example("monitoring.md", "class ShopConfig")
    client = pytest.importorskip("prometheus_client")
    run(code, AppConfig=AppConfig)["ShopConfig"]("shop", shop).ready()
    assert client.REGISTRY.get_sample_value("writebehind_up") == 1


# Redis


@pytest.mark.parametrize("of", ["SENTINELS", "CLUSTER"])
def test_settings_of_several_servers(settings, of):
    settings.WRITEBEHIND = run(example("redis.md", of))["WRITEBEHIND"]
    assert check_settings() == []


def test_a_function_that_makes_the_client():
    class Vault(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return "app", "secret"

    found = run(example("redis.md", "Vault"), Vault=Vault)
    assert isinstance(found["client"](), redis.Redis)


def test_a_redis_of_its_own():
    """Not as a model: the other tests would look for this Redis."""
    code = example("redis.md", "class Visit")
    found = run(code, models=SimpleNamespace(Model=object), LogBuffer=LogBuffer)
    assert problem_of(vars(found["Visit"])["buffered"]) is None


# The last one: it looks at what the others have done


def test_each_example_was_carried_out():
    example("writing.md", "AppConfig")  # by test_imports.py
    left = {
        f"{page.relative_to(ROOT / 'docs')}: {code.splitlines()[0]}"
        for page in DOCS
        if page.name not in ELSEWHERE
        for language, code in blocks(page)
        if language == "python" and code not in _seen
    }
    assert left == set()
