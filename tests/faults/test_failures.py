"""Each kind of failure, as the real servers report it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.models import ProtectedError

from tests.models import Everything, Item, Owner, Pair, Strict
from writebehind_app.database.failures import is_duplicate, kind

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


def execute(alias: str, sql: str, *params: Any) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)


def failure(alias: str, *statements: str) -> Exception:
    """What the last of the statements, or the commit, is refused with."""
    with pytest.raises(DatabaseError) as error, transaction.atomic(using=alias):  # noqa: PT012
        for sql in statements:
            execute(alias, sql)
    connections[alias].close()
    return error.value


class TestRow:
    def refused(self, row: Any) -> str:
        with pytest.raises(Exception) as error, transaction.atomic(using=row._state.db):  # noqa: PT011
            row.save(force_insert=True)
        return kind(error.value)

    def test_a_value_that_another_row_has(self, database):
        Owner.objects.create(name="o")
        assert self.refused(Owner(name="o")) == "row"

    def test_a_null(self, database):
        assert self.refused(Item(number=1, b=None)) == "row"

    def test_no_parent(self, database):
        assert self.refused(Pair(owner_id=404404, name="x")) == "row"

    def test_a_check(self, database):
        assert self.refused(Everything(positive=-1)) == "row"

    def test_out_of_range(self, database):
        assert self.refused(Everything(integer=10**20)) == "row"

    def test_too_long(self, database):
        if connections[database].vendor != "sqlite":  # keeps any length
            assert self.refused(Strict(code="x" * 30)) == "row"

    def test_not_of_the_type(self, database):
        insert = "INSERT INTO tests_keyonly (id, name) VALUES ('x', 'x')"
        assert kind(failure(database, insert)) == "row"

    def test_what_the_driver_refuses(self, database):
        if connections[database].vendor == "postgresql":  # the others take it
            assert self.refused(Owner(name="\0")) == "row"

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("x"),
            KeyError("x"),
            TypeError("x"),
            ValidationError("x"),
            ProtectedError("x", set()),
        ],
    )
    def test_what_python_refuses(self, error):
        assert kind(error) == "row"


class Psycopg2Error(Exception):
    """Has the code as psycopg2 has it."""

    def __init__(self, pgcode: str) -> None:
        super().__init__("refused")
        self.pgcode = pgcode


def of_psycopg2(code: str) -> Exception:
    error = OperationalError("refused")
    error.__cause__ = Psycopg2Error(code)
    return error


@pytest.mark.parametrize(
    ("code", "expected"),
    [("23505", "row"), ("40P01", "transient"), ("42P01", "schema"), ("57P01", "connection")],
)
def test_a_code_of_psycopg2(code, expected):
    assert kind(of_psycopg2(code)) == expected
    assert is_duplicate(of_psycopg2(code)) == (code == "23505")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
class TestRowsOnPostgreSQL:
    @pytest.mark.parametrize(
        "sql",
        [
            # too long for an index
            "INSERT INTO short SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n",
            # two spellings of one key
            "INSERT INTO short VALUES ('x'), ('x') ON CONFLICT (t) DO UPDATE SET t = 'x'",
            "DO $$ BEGIN ASSERT false; END $$",
            "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123'; END $$",
            "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END $$",
        ],
    )
    def test_a_refusal(self, database, sql):
        assert kind(failure(database, "CREATE TEMP TABLE short (t text UNIQUE)", sql)) == "row"

    @pytest.mark.parametrize(
        ("grant", "expected"), [("GRANT ALL ON own TO r", "row"), ("", "schema")]
    )
    def test_a_policy_refuses_a_row_where_a_missing_right_refuses_all(
        self, database, grant, expected
    ):
        error = failure(
            database,
            "CREATE ROLE r",
            "CREATE TEMP TABLE own (n int)",
            "ALTER TABLE own ENABLE ROW LEVEL SECURITY",
            grant or "SELECT 1",
            "SET LOCAL ROLE r",
            "INSERT INTO own VALUES (1)",
        )
        assert kind(error) == expected

    def test_nobody_knows(self, database):
        assert kind(failure(database, "SELECT no_function()")) == "unknown"


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
class TestRowsOnMariaDB:
    def test_a_division_by_zero(self, database):
        strict = "SET sql_mode = 'ERROR_FOR_DIVISION_BY_ZERO,STRICT_ALL_TABLES'"
        insert = "INSERT INTO tests_keyonly (name) VALUES (1 / 0)"
        assert kind(failure(database, strict, insert)) == "row"

    def test_larger_than_a_packet(self, database):
        with connections[database].cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            size = cursor.fetchone()[0]
        assert kind(failure(database, f"SELECT LENGTH('{'x' * size}')")) == "row"

    def test_nobody_knows(self, database):
        signal = "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 5999"
        assert kind(failure(database, signal)) == "unknown"


class TestSchema:
    @pytest.mark.parametrize(
        "sql", ["SELECT * FROM missing", "SELECT missing FROM tests_item", "SELEC 1"]
    )
    def test_what_is_not_there(self, database, sql):
        assert kind(failure(database, sql)) == "schema"

    def test_what_nobody_knows(self):
        assert kind(RuntimeError("x")) == "unknown"


class TestTransient:
    @contextmanager
    def locked(self, alias: str) -> Iterator[None]:
        """Somebody else has written to the row, and does not commit."""
        ready, done = threading.Event(), threading.Event()

        def lock() -> None:
            with transaction.atomic(using=alias):
                execute(alias, "UPDATE tests_owner SET name = 'locked'")
                ready.set()
                done.wait(20)
            connections[alias].close()

        thread = threading.Thread(target=lock)
        thread.start()
        assert ready.wait(10)
        try:
            yield
        finally:
            done.set()
            thread.join()

    def test_a_lock_that_takes_too_long(self, database):
        Owner.objects.create(name="o")
        patience = {
            "sqlite": "PRAGMA busy_timeout = 10",
            "postgresql": "SET lock_timeout = 10",
            "mysql": "SET innodb_lock_wait_timeout = 1",
        }[connections[database].vendor]
        with self.locked(database):
            error = failure(database, patience, "UPDATE tests_owner SET name = 'mine'")
        assert kind(error) == "transient", repr((error, error.__cause__))

    def test_a_timeout(self, database):
        statements = {
            "postgresql": ["SET statement_timeout = 10", "SELECT pg_sleep(1)"],
            "mysql": ["SET max_statement_time = 0.01", "SELECT SLEEP(1) FROM tests_owner"],
        }.get(connections[database].vendor)
        if statements:  # SQLite has none
            Owner.objects.create(name="o")
            assert kind(failure(database, *statements)) == "transient"

    def test_a_deadlock(self, database):
        if connections[database].vendor == "sqlite":  # one writer at a time
            return
        keys = [Owner.objects.create(name=name).pk for name in "ab"]
        meet, errors = threading.Barrier(2, timeout=10), []

        def lock_both(first: int, second: int) -> None:
            try:
                with transaction.atomic(using=database):
                    execute(
                        database,
                        "UPDATE tests_owner SET name = name || 'x' WHERE id = %s".replace(
                            "name || 'x'", "CONCAT(name, 'x')"
                        ),
                        first,
                    )
                    meet.wait()
                    execute(
                        database,
                        "UPDATE tests_owner SET name = CONCAT(name, 'y') WHERE id = %s",
                        second,
                    )
            except DatabaseError as error:
                errors.append(error)
            finally:
                connections[database].close()

        threads = [threading.Thread(target=lock_both, args=pair) for pair in (keys, keys[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [kind(error) for error in errors] == ["transient"]


class TestConnection:
    def test_a_session_that_was_ended(self, database):
        vendor = connections[database].vendor
        if vendor == "sqlite":
            return
        with connections[database].cursor() as cursor:
            cursor.execute(
                "SELECT pg_backend_pid()" if vendor == "postgresql" else "SELECT CONNECTION_ID()"
            )
            (session,) = cursor.fetchone()

        def end() -> None:
            execute(
                database,
                "SELECT pg_terminate_backend(%s)" if vendor == "postgresql" else "KILL %s",
                session,
            )
            connections[database].close()

        with pytest.raises(DatabaseError) as error, transaction.atomic(using=database):  # noqa: PT012
            execute(database, "UPDATE tests_owner SET name = 'x'")
            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
            execute(database, "UPDATE tests_owner SET name = 'y'")
        connections[database].close()
        assert kind(error.value) == "connection"

    def test_a_server_that_is_away(self, database, monkeypatch):
        connection = connections[database].copy()
        key, value = ("NAME", "/missing/x") if connection.vendor == "sqlite" else ("PORT", "1")
        monkeypatch.setitem(connection.settings_dict, key, value)
        with pytest.raises(DatabaseError) as error:
            connection.ensure_connection()
        assert kind(error.value) == "connection"

    def test_one_that_takes_no_writes(self, database):
        read_only = {
            "sqlite": "PRAGMA query_only = 1",
            "postgresql": "SET TRANSACTION READ ONLY",
            "mysql": "SET SESSION TRANSACTION READ ONLY",
        }[connections[database].vendor]
        execute(database, read_only) if connections[database].vendor == "mysql" else None
        error = failure(
            database,
            read_only if connections[database].vendor != "mysql" else "SELECT 1",
            "UPDATE tests_owner SET name = 'x'",
        )
        assert kind(error) == "connection"

    def test_a_full_disk(self, database):
        if connections[database].vendor == "sqlite":
            # More than what tests before this one may have left free.
            with connections[database].cursor() as cursor:
                cursor.execute(
                    "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
                )
                size = cursor.fetchone()[0] + 100_000
            insert = f"INSERT INTO tests_keyonly (name) VALUES (hex(zeroblob({size})))"
            error = failure(database, "PRAGMA max_page_count = 1", insert)
            assert kind(error) == "connection"
