"""What the database refuses of a log becomes dead letters; the rest keeps its order (G5)."""

from __future__ import annotations

import pytest

from tests.backdoor.entries import id_of
from tests.backdoor.shards import begin_numbers_at, number_of
from tests.models import Seat, Visit
from writebehind_app.database import deadletters
from writebehind_app.database.letters import described
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.models import DeadLetter


def shown() -> list[int]:
    numbers = [seat.number for seat in Seat.buffered.window()]
    assert Seat.buffered.count() == len(numbers)
    return numbers


def test_good_poison_good(database, redis_server):
    receipts = Seat.buffered.extend({"number": n} for n in (3, 1, 4, 2))
    Seat.objects.create(number=1, at="2020-01-01T00:00:00Z")  # past the buffer

    result = Seat.buffered.flush()

    assert (result.rows, result.dead_letters, result.remaining) == (3, 1, 0)
    assert shown() == [1, 3, 4, 2]
    stored = Seat.objects.order_by("pk").values_list("number", flat=True)
    assert [n for n in stored if n != 1] == [3, 4, 2]
    assert [r.where for r in receipts] == ["stored", "dead", "stored", "stored"]
    assert Seat.buffered.count_pending() == 0


def test_a_unique_id_is_free_once_its_record_died(database, redis_server):
    Seat.buffered.append(number=1)
    other = Seat.objects.create(number=1, at="2020-01-01T00:00:00Z")
    Seat.buffered.flush()
    with pytest.raises(AlreadyExists):
        Seat.buffered.append(number=1)
    other.delete()
    Seat.buffered.append(number=1)
    Seat.buffered.flush()
    assert shown() == [1]
    assert DeadLetter.objects.count() == 1


def test_a_letter_is_stored_with_its_own_time_once_the_cause_is_gone(database, redis_server):
    receipt = Seat.buffered.append(number=1)
    (pending,) = Seat.buffered.window()
    other = Seat.objects.create(number=1, at="2020-01-01T00:00:00Z")
    Seat.buffered.flush()
    (letter,) = DeadLetter.objects.all()
    assert described(letter)["values"] == {"number": 1, "at": pending.at}
    assert deadletters.retry(Seat.buffered, [letter.pk]) == (0, 1)
    other.delete()
    Seat.buffered.append(number=2)
    Seat.buffered.flush()
    assert deadletters.retry(Seat.buffered, [letter.pk]) == (1, 0)
    assert Seat.objects.get(number=1).at == pending.at
    assert shown() == [1, 2]
    assert receipt.where == "stored"


def test_a_letter_is_stored_as_another_one(database, redis_server):
    Seat.buffered.append(number=1)
    Seat.objects.create(number=1, at="2020-01-01T00:00:00Z")
    Seat.buffered.flush()
    (letter,) = DeadLetter.objects.all()
    deadletters.edit(Seat.buffered, letter.pk, {"number": 5})
    assert deadletters.retry(Seat.buffered, [letter.pk]) == (1, 0)
    assert shown() == [1, 5]


def test_a_record_of_the_same_number_in_another_shard_leaves_a_letter_alone(database, redis_server):
    """Two shards may number two records of one microsecond alike."""
    by_shard = {
        number_of(Visit.buffered, id_of(Visit.buffered, event=n, email="a")): n for n in range(50)
    }
    dying, living = list(by_shard.values())[:2]
    begin_numbers_at(Visit.buffered, 2 * 10**15)  # ahead of the clock
    dead = Visit.buffered.append(event=dying, email="a")
    Visit.objects.create(event=dying, email="a")
    Visit.buffered.flush()
    good = Visit.buffered.append(event=living, email="a")
    assert (good.number, good.shard == dead.shard) == (dead.number, False)
    Visit.buffered.flush()
    assert (dead.where, good.where) == ("dead", "stored")
    assert described(DeadLetter.objects.get())["values"]["event"] == dying
