"""Safeguards of the admin: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ADMIN = "tests/integration/test_admin.py::"
_LETTERS = "tests/integration/test_admin_deadletters.py::"

MUTANTS = [
    mutant(
        "whoever sees the admin may do all in it",
        "Guarded.guarded",
        "may(request, what)",
        "may(request, 'view')",
        f"{_ADMIN}test_each_action_has_a_permission_of_its_own",
    ),
    mutant(
        "staff without a permission see what is pending",
        "may",
        'user.has_perm("writebehind.view") and user.has_perm(f"writebehind.{what}")',
        "user.is_staff",
        f"{_ADMIN}test_staff_without_permission_sees_nothing_of_it",
    ),
    mutant(
        "a discard needs no name",
        "EntryPages.discard",
        "typed == label",
        "True",
        f"{_ADMIN}test_a_discard_is_confirmed_by_the_name_of_the_buffer",
    ),
    mutant(
        "a hidden key is in the address of its entry",
        "EntryPages._row",
        "_is_key_hidden(request, buffer)",
        "False",
        "tests/integration/test_admin_search.py::test_a_hidden_key_is_not_to_be_guessed",
    ),
    mutant(
        "an entry of a hidden key is to be guessed",
        "_refuse_hidden",
        "_is_key_hidden(request, buffer)",
        "False",
        "tests/integration/test_admin_search.py::test_a_hidden_key_is_not_to_be_guessed",
    ),
    mutant(
        "the address of a page has an id in it",
        "_alias",
        'salted_hmac(_SALT, id, algorithm="sha256").hexdigest()[:16]',
        "id",
        "tests/integration/test_admin_search.py::"
        "test_the_address_of_a_further_page_says_nothing_of_a_hidden_key",
    ),
    mutant(
        "why a batch failed is told with sensitive values",
        "_give_back",
        "buffer.sensitive",
        "False",
        f"{_ADMIN}test_why_a_batch_failed_is_told_without_sensitive_values",
    ),
    mutant(
        "a search goes on behind what it has not looked at",
        "pending",
        "Page(rows[:size], stopped)",
        "Page(rows[:size], (min if newest_first else max)(stops))",
        "tests/integration/test_admin_search.py::test_the_search_stops_and_goes_on",
    ),
    mutant(
        "sensitive values are shown",
        "hidden_names",
        'may(request, "reveal")',
        "True",
        f"{_ADMIN}test_sensitive_values_are_masked",
    ),
    mutant(
        "the reason of a dead letter has sensitive values",
        "reason_of",
        'isinstance(error, Error) and not hasattr(error.__cause__, "sqlite_errorname")',
        "False",
        f"{_ADMIN}test_the_reason_of_a_letter_quotes_no_part_of_a_sensitive_value[mariadb-valkey]",
        databases=("mariadb",),
    ),
    mutant(
        "fields that nobody changed are written",
        "DeadLetterAdmin._edited",
        "form.changed_data",
        "form.cleaned_data",
        f"{_LETTERS}test_an_operation_stays_or_is_replaced",
    ),
]
