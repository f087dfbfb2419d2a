"""Safeguards of the admin: for each, a change that makes it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_ADMIN = "tests/integration/test_admin.py::"
_LETTERS = "tests/integration/test_admin_deadletters.py::"

MUTANTS = [
    mutant(
        "whoever sees the admin may do all in it",
        "admin/access.py",
        "            if not may(request, what):\n",
        "            if not may(request, 'view'):\n",
        f"{_ADMIN}test_each_action_has_a_permission_of_its_own",
    ),
    mutant(
        "staff without a permission see what is pending",
        "admin/access.py",
        '    return user.has_perm("writebehind.view") and user.has_perm(f"writebehind.{what}")',
        "    return user.is_staff",
        f"{_ADMIN}test_staff_without_permission_sees_nothing_of_it",
    ),
    mutant(
        "a discard needs no name",
        "admin/entries.py",
        "            if typed == label:\n",
        "            if True:\n",
        f"{_ADMIN}test_a_discard_is_confirmed_by_the_name_of_the_buffer",
    ),
    mutant(
        "a hidden key is in the address of its entry",
        "admin/entries.py",
        "        is_hidden = _is_key_hidden(request, buffer)\n",
        "        is_hidden = False\n",
        "tests/integration/test_admin_search.py::test_a_hidden_key_is_not_to_be_guessed",
    ),
    mutant(
        "an entry of a hidden key is to be guessed",
        "admin/entries.py",
        "    if _is_key_hidden(request, buffer):\n",
        "    if False:\n",
        "tests/integration/test_admin_search.py::test_a_hidden_key_is_not_to_be_guessed",
    ),
    mutant(
        "the address of a page has an id in it",
        "admin/pending.py",
        '    return salted_hmac(_SALT, id, algorithm="sha256").hexdigest()[:16]\n',
        "    return id\n",
        "tests/integration/test_admin_search.py::"
        "test_the_address_of_a_further_page_says_nothing_of_a_hidden_key",
    ),
    mutant(
        "why a batch failed is told with sensitive values",
        "flush/engine.py",
        'type(error).__name__ if buffer.sensitive else f"',
        'type(error).__name__ if False else f"',
        f"{_ADMIN}test_why_a_batch_failed_is_told_without_sensitive_values",
    ),
    mutant(
        "a search goes on behind what it has not looked at",
        "store/listing.py",
        "    return Page(rows[:size], stopped)\n",
        "    return Page(rows[:size], (min if newest_first else max)(stops))\n",
        "tests/integration/test_admin_search.py::test_the_search_stops_and_goes_on",
    ),
    mutant(
        "sensitive values are shown",
        "admin/access.py",
        '    if may(request, "reveal"):\n',
        "    if True:\n",
        f"{_ADMIN}test_sensitive_values_are_masked",
    ),
    mutant(
        "the reason of a dead letter has sensitive values",
        "flush/deadletters.py",
        '    if isinstance(error, Error) and not hasattr(error.__cause__, "sqlite_errorname"):\n',
        "    if False:\n",
        f"{_ADMIN}test_the_reason_of_a_letter_quotes_no_part_of_a_sensitive_value[mariadb-valkey]",
        databases=("mariadb",),
    ),
    mutant(
        "fields that nobody changed are written",
        "admin/deadletters.py",
        "for name in form.changed_data}",
        "for name in form.cleaned_data}",
        f"{_LETTERS}test_an_operation_stays_or_is_replaced",
    ),
]
