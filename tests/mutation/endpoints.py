"""Safeguards of the endpoints, and of commands: for each, a change that makes it void, and who must
notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ALL = "tests/systems/test_endpoints.py::"
_EVENTS = "tests/systems/test_events.py::TestEndpoint::"
_BEFORE = "tests/integration/test_before_migrate.py::"

MUTANTS = [
    mutant(
        "a middleware sends who is not logged in to a page",
        "endpoint",
        "login_not_required(csrf_exempt(checked))",
        "csrf_exempt(checked)",
        f"{_ALL}test_with_the_middleware_that_requires_a_login",
    ),
    mutant(
        "nobody who watches for errors is told of one",
        "_failed",
        "got_request_exception.send(sender=None, request=request)",
        "",
        f"{_ALL}test_an_error_that_nobody_foresaw",
    ),
    mutant(
        "a page of registrations ends amid those of one moment",
        "registrations",
        "end = times.filter(registered_at__gt=first).first()",
        "",
        f"{_EVENTS}test_lists_those_of_one_moment_on_one_page[7]",
    ),
    mutant(
        "what is pending makes a page of registrations longer",
        "registrations",
        "found = [row for row in found if row.registered_at < cut]",
        "",
        f"{_EVENTS}test_lists_them_page_by_page_in_their_order[sqlite-valkey-0]",
    ),
    mutant(
        "the next page begins after the last row shown, which may be deleted",
        "_page",
        "keys[limit - 1] if len(keys) > limit else None",
        "max(rows, default=None) if len(keys) > limit else None",
        "tests/systems/test_appointments.py::TestEndpoint::test_a_page_whose_rows_are_all_deleted",
    ),
    mutant(
        "a command before migrate says no more than the database",
        "databases_of",
        "if said := migrate_first(using):\n    raise CommandError(said) from None",
        "pass",
        f"{_BEFORE}test_the_dead_letters[sqlite-valkey-args0]",
    ),
    mutant(
        "a flush before migrate says that batches failed",
        "_without_ledger",
        "all(say(using) for using in b.databases())",
        "False",
        f"{_BEFORE}test_a_flush[sqlite-valkey]",
    ),
    mutant(
        "a task that prunes fails before migrate",
        "prune",
        "if not lacks_tables(buffer, error):\n    raise",
        "raise",
        f"{_BEFORE}test_a_task_that_prunes[sqlite-valkey]",
    ),
]
