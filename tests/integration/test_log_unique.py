"""No two records of a log have one unique id, pending or stored."""

from __future__ import annotations

import pytest

from tests.backdoor.batches import claim_and_die, end_lease
from tests.backdoor.declarations import forget_looks
from tests.models import Line, Visit
from writebehind_app import checkpoints
from writebehind_app.exceptions import AlreadyExists


class TestUnique:
    def test_pending_in_flight_and_stored(self, database, redis_server):
        Visit.buffered.append(event=1, email="a@b")

        def refused():
            with pytest.raises(AlreadyExists) as caught:
                Visit.buffered.append(event=1, email="a@b")
            assert str(caught.value) == "tests.Visit with event=1, email='a@b' exists already."
            with pytest.raises(AlreadyExists):
                Visit.buffered.extend([{"event": 5, "email": "x"}, {"event": 1, "email": "a@b"}])

        refused()
        claim_and_die(Visit.buffered)
        refused()
        Visit.buffered.flush()
        refused()
        assert Visit.buffered.count_pending() == 0
        Visit.buffered.append(event=2, email="a@b")
        Visit.buffered.append(event=1, email="b@b")
        Visit.objects.all().delete()
        Visit.buffered.append(event=1, email="a@b")
        Visit.buffered.flush()
        assert Visit.objects.count() == 3

    def test_twice_in_one_call(self, plain):
        with pytest.raises(AlreadyExists, match="event=1, email='a'"):
            Visit.buffered.extend([{"event": 1, "email": "a"}] * 2)
        assert Visit.buffered.count_pending() == 0

    def test_texts_that_look_alike_once_joined_are_told_apart(self, database, redis_server):
        for event, email in ((1, "23"), (12, "3"), (1, '",1,"'), (1, ""), (1, "é"), (1, "a,b")):
            Visit.buffered.append(event=event, email=email)
        Visit.buffered.flush()
        assert Visit.objects.count() == 6

    @pytest.mark.parametrize("known", [False, True], ids=["first call", "later call"])
    def test_a_record_that_is_stored_between_the_look_and_the_append(
        self, database, redis_server, monkeypatch, known
    ):
        forget_looks(monkeypatch, Visit.buffered)
        if known:
            Visit.buffered.extend({"event": n, "email": "b"} for n in range(20))
            Visit.buffered.flush()
            Visit.buffered.extend({"event": n, "email": "c"} for n in range(20))

        def hook(step):
            if step == "write.sending":
                monkeypatch.setattr(checkpoints, "hook", None)
                Visit.buffered.append(event=1, email="a")
                Visit.buffered.flush()

        monkeypatch.setattr(checkpoints, "hook", hook)
        with pytest.raises(AlreadyExists):
            Visit.buffered.append(event=1, email="a")
        assert Visit.objects.filter(email="a").count() == 1
        assert Visit.buffered.count_pending() == 0

    def test_a_record_that_is_stored_and_discarded_between_the_look_and_the_append(
        self, database, redis_server, monkeypatch
    ):
        """Its flusher died after the commit: Redis held it in flight, and forgets it."""

        def die(step):
            if step == "flush.committed":
                raise InterruptedError

        def intrude(step):
            if step == "write.sending":
                monkeypatch.setattr(checkpoints, "hook", die)
                Visit.buffered.append(event=1, email="a")
                with pytest.raises(InterruptedError):
                    Visit.buffered.flush()
                monkeypatch.setattr(checkpoints, "hook", None)
                end_lease(Visit.buffered)
                assert Visit.buffered.discard(event=1, email="a") == 0

        monkeypatch.setattr(checkpoints, "hook", intrude)
        with pytest.raises(AlreadyExists):
            Visit.buffered.append(event=1, email="a")

    def test_nobody_asks_the_database_where_nothing_is_unique(
        self, database, redis_server, django_assert_num_queries
    ):
        with django_assert_num_queries(0, using=database):
            Line.buffered.append(text="a")
            Line.buffered.extend([{"text": "b"}, {"text": "c"}])

    def test_the_database_is_asked_once(self, database, redis_server, django_assert_num_queries):
        # From the second on it is known what the shards look like, and what a statement may hold.
        for email in "cd":
            Visit.buffered.extend({"event": n, "email": email} for n in range(500))
        with django_assert_num_queries(2, using=database):
            Visit.buffered.append(event=1, email="a")
            Visit.buffered.extend({"event": n, "email": "a"} for n in range(2, 500))
