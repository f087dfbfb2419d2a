"""What a project imports from the package."""

from __future__ import annotations

import pytest
from django.apps import apps

import writebehind_app
from tests.models import Item
from writebehind_app import RowBuffer, exceptions
from writebehind_app.checks import check_buffers


def every_exception() -> list[type[Exception]]:
    kinds = vars(exceptions).values()
    return [k for k in kinds if isinstance(k, type) and k.__module__ == exceptions.__name__]


@pytest.mark.parametrize("kind", every_exception(), ids=lambda kind: kind.__name__)
def test_each_exception_is_one_of_them(kind):
    assert getattr(writebehind_app, kind.__name__) is kind
    assert kind.__name__ in writebehind_app.__all__


def test_each_name_is_there():
    for name in writebehind_app.__all__:
        assert getattr(writebehind_app, name)
    assert {*writebehind_app.__all__} <= {*dir(writebehind_app)}


def test_a_class_that_was_not_called(monkeypatch):
    monkeypatch.setattr(Item, "forgotten", RowBuffer, raising=False)
    assert Item in apps.get_models()
    (message,) = (m for m in check_buffers() if m.id == "writebehind.E026")
    assert message.obj is Item
    assert "forgotten = RowBuffer(…)" in message.hint
