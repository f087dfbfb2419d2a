"""Lesson progress, through the services and the endpoint."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from tests.outages import wait_for_redis
from tests.systems.conftest import Api
from writebehind_app import Add, Max, Merge
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.meta.models import LessonMeta
from writebehind_app.meta.services import finalize_lesson, progress, record_progress
from writebehind_app.models import DeadLetter

ODD_KEYS = ["a", "A:b", 'q"', "\\u003a", "@", "&x:", "!", "#", "ü\n", "-1", "'", "日本語", "🎈"]


def test_shows_every_record(database, redis_server, bring, user):
    record_progress(7, user, section=3, seconds=15, position=12.5)
    bring(LessonMeta.buffered)
    assert progress(7, user) == {"section": 3, "seconds": 15, "position": 12.5}
    record_progress(7, user, seconds=Add(15), position=Max(10), notes={"1": "x"})
    assert progress(7, user) == {"section": 3, "seconds": 30, "position": 12.5, "notes": {"1": "x"}}
    assert progress(8, user) == {}


def test_is_each_users_own(plain, user):
    other = get_user_model().objects.create_user("bert")
    record_progress(7, user, section=3)
    record_progress(7, other, section=4)
    assert (progress(7, user), progress(7, other)) == ({"section": 3}, {"section": 4})


def test_steps_are_written_one_after_the_other(database, redis_server, user):
    receipt = record_progress(7, user, {"a": 1, "b": 1}, {"a": Add(2)}, {"b": 5}, a=Add(4))
    assert progress(7, user) == {"a": 7, "b": 5}
    LessonMeta.buffered.flush()
    assert receipt.persisted
    assert progress(7, user) == {"a": 7, "b": 5}


def test_no_step_is_written_if_one_is_refused(plain, user):
    with pytest.raises(ValidationError):
        record_progress(7, user, {"a": 1}, {"b": object()})
    assert LessonMeta.buffered.count_pending() == 0


def test_finalize_says_that_the_database_refuses_it(database, redis_server, user):
    record_progress(7, user, seconds=15)
    gone = get_user_model().objects.get()
    users = get_user_model().objects.filter(pk=user.pk)
    users._raw_delete(users.db)  # Django sends no signal
    with pytest.raises(IntegrityError, match="dead letter"):
        finalize_lesson(7, gone)
    assert DeadLetter.objects.get().buffer == LessonMeta.buffered.label


def test_nothing_is_left_of_a_user_who_is_deleted(database, redis_server, user):
    record_progress(7, user, seconds=15)
    gone = get_user_model().objects.get()
    user.delete()
    assert finalize_lesson(7, gone) == {}
    assert not DeadLetter.objects.exists()


def test_finalize_stores_it_and_returns_what_is_stored(database, redis_server, bring, user):
    other = get_user_model().objects.create_user("bert")
    record_progress(7, other, seconds=1)
    record_progress(7, user, seconds=15, done=False)
    bring(LessonMeta.buffered)
    record_progress(7, user, {"seconds": Add(5), "done": True}, notes=Merge({"a": 1}))
    record_progress(9, user, seconds=1)
    assert finalize_lesson(7, user) == {"seconds": 20, "done": True, "notes": {"a": 1}}
    rows = LessonMeta.objects.filter(lesson_id=7, user=user)
    assert dict(rows.values_list("meta_key", "meta_value")) == finalize_lesson(7, user)
    assert not LessonMeta.objects.filter(lesson_id=9).exists()
    assert finalize_lesson(8, user) == {}


def test_finalize_while_redis_is_away(database, redis_server, configure, user):
    configure(WHEN_DOWN="direct")
    record_progress(7, user, seconds=15)
    assert finalize_lesson(7, user) == {"seconds": 15}
    redis_server.stop()
    record_progress(7, user, seconds=Add(5))
    assert finalize_lesson(7, user) == {"seconds": 20}
    configure(WHEN_DOWN="raise")
    with pytest.raises(BufferUnavailable):
        finalize_lesson(7, user)
    redis_server.start()
    wait_for_redis()


def test_finalize_is_refused_inside_a_transaction(plain, user):
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        finalize_lesson(7, user)


class TestEndpoint:
    path = "lessons/7/progress/"

    def test_takes_and_shows_progress(self, database, redis_server, bring, user, api):
        response = api("POST", self.path, {"section": 3, "seconds": 15, "notes": {"a": [1]}})
        assert (response.status_code, response.json()) == (202, {"pending": True})
        bring(LessonMeta.buffered)
        response = api("GET", self.path)
        assert response.json() == {"section": 3, "seconds": 15, "notes": {"a": [1]}}
        assert response["Cache-Control"] == "no-store"
        assert progress(7, user) == response.json()

    def test_operations(self, database, redis_server, bring, api):
        api("POST", self.path, {"seconds": 10, "position": 100.5, "least": 5, "notes": {"a": 1}})
        bring(LessonMeta.buffered)
        operations = {
            "seconds": {"$add": 15},
            "position": {"$max": 120.5},
            "least": {"$min": 3},
            "notes": {"$merge": {"b": 2}},
            "new": {"$add": -1},
        }
        assert api("POST", self.path, operations).status_code == 202
        LessonMeta.buffered.flush()
        assert api("GET", self.path).json() == {
            "seconds": 25,
            "position": 120.5,
            "least": 3,
            "notes": {"a": 1, "b": 2},
            "new": -1,
        }

    def test_a_batch_in_order(self, database, redis_server, api):
        steps = [{"a": {"$add": 1}, "b": 1}, {"b": {"$add": 1}}, {"a": {"$add": 2}, "b": 5}]
        assert api("POST", self.path, steps).status_code == 202
        assert api("GET", self.path).json() == {"a": 3, "b": 5}

    def test_a_batch_with_a_refused_step_writes_nothing(self, plain, api):
        response = api("POST", self.path, [{"a": 1}, {"b": {"$add": 0.5}}])
        assert response.status_code == 400
        assert list(response.json()["fields"]) == ["b"]
        assert api("GET", self.path).json() == {}

    def test_odd_keys(self, database, redis_server, api):
        values = {key: {key: n} for n, key in enumerate(ODD_KEYS)}
        assert api("POST", self.path, values).status_code == 202
        merges = {key: {"$merge": {f"{key}2": -1}} for key in ODD_KEYS}
        assert api("POST", self.path, merges).status_code == 202
        expected = {key: {**value, f"{key}2": -1} for key, value in values.items()}
        assert api("GET", self.path).json() == expected
        LessonMeta.buffered.flush()
        assert api("GET", self.path).json() == expected

    def test_the_deepest_value_that_is_taken_is_stored(self, database, redis_server, api):
        value: object = 1
        for _ in range(19):  # and the body around it
            value = [value]
        assert api("POST", self.path, {"deep": value}).status_code == 202
        LessonMeta.buffered.flush()
        assert api("GET", self.path).json() == {"deep": value}
        assert api("POST", self.path, {"deep": [value]}).status_code == 400

    @pytest.mark.parametrize("text", ["\0", "a\0", "\ud800"])
    def test_text_that_a_database_refuses(self, database, redis_server, api, text):
        bodies = ({text: 1}, {"a": text}, {"a": {"b": [text]}}, {"a": {"$merge": {text: 1}}})
        for body in bodies:
            assert api("POST", self.path, body).status_code == 400
        assert LessonMeta.buffered.count_pending() == 0

    def test_is_the_callers_own(self, plain, user, api):
        api("POST", self.path, {"a": 1})
        other = Api(get_user_model().objects.create_user("bert"))
        assert other("GET", self.path).json() == {}

    @pytest.mark.parametrize(
        ("operation", "why"),
        [
            ({"$sub": 1}, "An operation is an object with one key: $add, $max, $min, $merge."),
            ({"$add": 1, "$max": 2}, "An operation is an object with one key"),
            ({"$add": 1, "x": 2}, "An operation is an object with one key"),
            ({"$add": True}, "$add takes a number."),
            ({"$add": "1"}, "$add takes a number."),
            ({"$add": 0.5}, "Add needs a whole number"),
            ({"$max": None}, "$max takes a number."),
            ({"$min": [1]}, "$min takes a number."),
            ({"$merge": [1]}, "$merge takes an object."),
        ],
    )
    def test_what_is_no_operation(self, plain, api, operation, why):
        response = api("POST", self.path, {"good": 1, "bad": operation})
        assert response.status_code == 400
        assert why in response.json()["fields"]["bad"][0]
        assert LessonMeta.buffered.count_pending() == 0

    def test_a_sum_that_overflows(self, plain, api):
        assert api("POST", self.path, {"n": 2**63 - 1}).status_code == 202
        assert api("POST", self.path, {"n": {"$add": 1}, "m": 2}).status_code == 202
        assert api("GET", self.path).json() == {"n": 2**63 - 1, "m": 2}
        assert LessonMeta.buffered.flush().dead_letters == 1
        assert api("GET", self.path).json() == {"m": 2}

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 10**4299])
    def test_a_whole_number_beyond_64_bits(self, plain, api, number):
        for body in ({"a": number}, {"a": [{"b": number}]}, {"a": {"$add": number}}):
            response = api("POST", self.path, body)
            assert response.status_code == 400
            assert "more than 64 bits hold" in response.json()["error"]
        assert LessonMeta.buffered.count_pending() == 0

    def test_a_sum_beyond_what_can_be_read(self, database, redis_server, user, api):
        LessonMeta.buffered.of(lesson_id=7, user=user)["n"] = 10**4300 - 1
        LessonMeta.buffered.flush()
        assert api("POST", self.path, {"n": {"$add": 1}}).status_code == 202
        assert api("GET", self.path).json() == {"n": 10**4300 - 1}
        assert LessonMeta.buffered.flush().dead_letters == 1

    @pytest.mark.parametrize("body", [[], {}, [{}], [1], 1, "a", None, True])
    def test_what_is_neither_an_object_nor_a_list_of_them(self, plain, api, body):
        assert api("POST", self.path, body or json_of(body)).status_code == 400

    def test_limits(self, plain, api, configure):
        configure(META_MAX_KEYS=2, META_MAX_KEY_LENGTH=3)
        assert api("POST", self.path, {"a": 1, "äöü": 2}).status_code == 202
        for refused in (
            {"a": 1, "b": 2, "c": 3},
            {"four": 1},
            {"": 1},
            {"$a": 1},
            [{"a": 1}] * 3,
            {"a": {"$merge": {"x": 1, "y": 2, "z": 3}}},
            {"a": {"$merge": {"four": 1}}},
        ):
            assert api("POST", self.path, refused).status_code == 400
        assert api("GET", self.path).json() == {"a": 1, "äöü": 2}


def json_of(body: object) -> bytes:
    return {"[]": b"[]", "{}": b"{}", "None": b"null"}[repr(body)]
