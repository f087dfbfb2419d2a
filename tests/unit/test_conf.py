from __future__ import annotations

import math
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from writebehind_app import conf


class TestDefaults:
    def test_without_the_setting(self, settings):
        settings.WRITEBEHIND = {}  # tells of it, which `del` does not
        del settings.WRITEBEHIND
        assert conf.settings() == conf.Settings()

    def test_what_is_not_given(self, settings):
        settings.WRITEBEHIND = {"MAX_AGE": 1}
        assert conf.settings() == conf.Settings(MAX_AGE=1)

    def test_every_number_is_one_that_is_allowed(self):
        defaults = conf.Settings()
        assert [conf.problem(name, getattr(defaults, name)) for name in conf.NAMES] == [None] * len(
            conf.NAMES
        )


class TestOverriding:
    def test_holds_at_once_and_ends(self, settings):
        before = conf.settings()
        given = settings.WRITEBEHIND
        settings.WRITEBEHIND = {**given, "BATCH_SIZE": 7}
        assert conf.settings().BATCH_SIZE == 7
        settings.WRITEBEHIND = given
        assert conf.settings() == before

    def test_unknown_names_are_left_to_the_checks(self, settings):
        settings.WRITEBEHIND = {"TYPO": 1}
        assert conf.settings() == conf.Settings()


class TestWrongValues:
    @pytest.mark.parametrize(
        ("name", "value", "must"),
        [
            ("REDIS", "", "must be a non-empty string"),
            ("REDIS", 1, "must be a non-empty string"),
            ("PREFIX", None, "must be a non-empty string"),
            ("PREFIX", "a}", "must be without braces"),
            ("MAX_AGE", -0.1, "must be a number, at least 0"),
            ("MAX_AGE", math.nan, "must be a number, at least 0"),
            ("MAX_AGE", math.inf, "must be a number, at least 0"),
            ("QUIET", True, "must be a number, at least 0"),
            ("ON_COMMIT", "yes", "must be True or False"),
            ("ON_COMMIT", 1, "must be True or False"),
            ("BATCH_SIZE", 0, "must be a whole number, at least 1"),
            ("SHARDS", 1.0, "must be a whole number, at least 1"),
            ("LEASE", 0, "must be a number, greater than 0"),
            ("BACKOFF", "1", "must be a number, greater than 0"),
            ("MAX_BACKOFF", -1, "must be a number, greater than 0"),
            ("CONNECT_TIMEOUT", 0, "must be a number, greater than 0"),
            ("SOCKET_TIMEOUT", None, "must be a number, greater than 0"),
            ("DEAD_LETTER_DAYS", 800_000, "must be a number, at least 0 and at most 36500"),
            ("LEDGER_DAYS", math.inf, "must be a number, at least 0 and at most 36500"),
            ("FENCE_DAYS", 36_501, "must be a number, greater than 0 and at most 36500"),
            ("ONCE_DAYS", 0, "must be a number, greater than 0 and at most 36500"),
            ("META_MAX_KEYS", 0, "must be a whole number, at least 1"),
            ("META_MAX_KEY_LENGTH", "64", "must be a whole number, at least 1"),
            ("META_MAX_BODY", 65536.0, "must be a whole number, at least 1"),
        ],
    )
    def test_say_what_is_right(self, settings, name, value, must):
        settings.WRITEBEHIND = {name: value}
        with pytest.raises(ImproperlyConfigured) as caught:
            conf.settings()
        assert str(caught.value) == f"WRITEBEHIND: {name} {must}, not {value!r}."

    @pytest.mark.parametrize("name", ["DEAD_LETTER_DAYS", "LEDGER_DAYS", "FENCE_DAYS", "ONCE_DAYS"])
    def test_so_many_days_ago_there_was_a_calendar(self, settings, name):
        settings.WRITEBEHIND = {name: 36_500}
        assert timezone.now() - timedelta(days=getattr(conf.settings(), name))

    def test_not_a_dict(self, settings):
        settings.WRITEBEHIND = []
        with pytest.raises(ImproperlyConfigured, match=r"WRITEBEHIND must be a dict, not \[\]\."):
            conf.settings()
