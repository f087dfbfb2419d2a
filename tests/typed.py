"""What a type checker knows of the public names: `make lint` reads it, nobody runs it."""

from __future__ import annotations

from typing import assert_type

from tests.models import Item, Line, Ware
from writebehind_app import BufferedManager, BufferedQuerySet, LogBuffer, Receipt, RowBuffer


async def instances() -> None:
    assert_type(Item.buffered, RowBuffer[Item])
    assert_type(Item.buffered.get(number=1), Item)
    assert_type(await Item.buffered.aget(number=1), Item)
    assert_type(Item.buffered.overlay(Item.objects.all()), list[Item])
    assert_type(Item.buffered.save(Item(number=1), update_fields=["a"]), Receipt)
    assert_type(Ware.objects, BufferedManager[Ware])
    assert_type(Ware.objects.get(code="x"), Ware)
    assert_type(Ware.objects.get_queryset(), BufferedQuerySet[Ware])
    assert_type(await Ware.objects.filter(code="x").afirst(), Ware | None)
    assert_type(Line.buffered, LogBuffer[Line])
    assert_type(Line.buffered.window(), list[Line])


RowBuffer(key="number", max_age=1, when_down="raise")
RowBuffer(key="number", max_ag=1)  # type: ignore[call-arg]
