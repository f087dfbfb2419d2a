"""Post metadata, through the services."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import connections

from writebehind_app import Add, Max, Merge
from writebehind_app.meta.models import PostMeta
from writebehind_app.meta.services import delete_post_meta, post_meta, save_post_meta


def test_is_there_after_it_was_saved(database, redis_server, bring):
    save_post_meta(1, views=10, tags=["a", "b"], nothing=None)
    save_post_meta(1, {"a key": {"x": 1}, "views": Add(5)})
    save_post_meta(2, views=0)
    bring(PostMeta.buffered)
    assert post_meta(1) == {
        "views": 15,
        "tags": ["a", "b"],
        "nothing": None,
        "a key": {"x": 1},
    }
    assert post_meta(3) == {}
    save_post_meta(1, {"a key": Merge({"y": 2})}, views=Add(1))
    assert (post_meta(1)["views"], post_meta(1)["a key"]) == (16, {"x": 1, "y": 2})


def test_is_gone_after_it_was_deleted(database, redis_server, bring):
    save_post_meta(1, a=1, b=2, c=3)
    bring(PostMeta.buffered)
    delete_post_meta(1, "a", "b", "never there")
    assert post_meta(1) == {"c": 3}
    delete_post_meta(1)
    assert post_meta(1) == {}
    PostMeta.buffered.flush()
    assert list(PostMeta.objects.all()) == []


def test_the_receipt_tells_when_it_is_stored(plain):
    receipt = save_post_meta(1, a=1)
    assert not receipt.persisted
    PostMeta.buffered.flush()
    assert receipt.persisted
    assert [str(row) for row in PostMeta.objects.all()] == ["1 a"]


@pytest.mark.parametrize("pair", [("A", "a"), ("é", "e"), ("a ", "a"), ("ß", "ss"), ("", " ")])
def test_keys_that_a_database_may_take_for_equal(database, redis_server, pair):
    one, two = pair
    save_post_meta(1, {one: 1, two: 2})
    PostMeta.buffered.flush()
    assert post_meta(1) == {one: 1, two: 2}
    save_post_meta(1, {two: Add(1)})
    PostMeta.buffered.flush()
    assert dict(PostMeta.objects.values_list("meta_key", "meta_value")) == {one: 1, two: 3}


@pytest.mark.parametrize(
    "value", [float("nan"), object(), "\ud800", Add(0.5), Add(2**63), Max(10**400)]
)
def test_what_is_no_json_is_refused(plain, value):
    with pytest.raises(ValidationError) as refused:
        save_post_meta(1, good=1, bad=value)
    assert list(refused.value.message_dict) == ["bad"]
    assert post_meta(1) == {}


def test_a_merged_key_that_the_database_refuses_is_refused(database, redis_server):
    with pytest.raises(ValidationError):
        save_post_meta(1, a=Merge({"\ud800": 1}))
    if connections[database].vendor == "postgresql":
        with pytest.raises(ValidationError, match="NUL"):
            save_post_meta(1, a=Merge({"\0": 1}))
    else:
        save_post_meta(1, a=Merge({"\0": 1}))
        PostMeta.buffered.flush()
        assert post_meta(1) == {"a": {"\0": 1}}


def test_a_key_that_is_too_long_is_refused(plain):
    with pytest.raises(ValidationError, match="at most 100 characters"):
        save_post_meta(1, {"k" * 101: 1})
