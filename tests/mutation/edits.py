"""Edits that a dead letter, a form or an inline must not undo: for each rule, a change that makes
it void, and who must notice."""

from __future__ import annotations

from tests.mutation.mutant import mutant

_EDITS = "tests/integration/test_edits.py::"
_LETTERS = "tests/integration/test_admin_deadletters.py::"
_POISON = "tests/faults/test_poison.py::TestDeadLetters::"
_ADMIN = "tests/integration/test_buffered_admin.py::"
_FORM = f"{_ADMIN}TestForm::"
_INLINE = f"{_ADMIN}TestInline::"
_BETWEEN = "tests/integration/test_orm_between.py::"

MUTANTS = [
    # Dead letters
    mutant(
        "a retry undoes an edit",
        "_retry",
        "found and over != edits.digest_of(found)",
        "False",
        f"{_EDITS}test_an_edit_is_not_undone",
    ),
    mutant(
        "who was asked once is not asked about a later edit",
        "_retry",
        "found and over != edits.digest_of(found)",
        "found and not over",
        f"{_EDITS}test_over_what_was_shown_and_nothing_else",
    ),
    mutant(
        "an edit comes between the question and the write",
        "_retry",
        "edits.edits_since(buffer, letter, lock=True)",
        "edits.edits_since(buffer, letter)",
        f"{_EDITS}test_an_edit_waits_for_the_retry",
        databases=("postgresql",),
    ),
    mutant(
        "a retry undoes what a later letter wrote",
        "_retry",
        "superseding.supersede(buffer, written.entries, [entry], before=letter.last)",
        "",
        f"{_EDITS}test_several_letters_of_a_row",
    ),
    mutant(
        "a retry undoes what a later letter is going to write",
        "supersede",
        "letters.filter(last__lt=before)",
        "letters",
        f"{_EDITS}test_several_letters_of_a_row",
    ),
    mutant(
        "what an earlier letter wrote is an edit",
        "_retry",
        "edits.remember_retry(buffer, later, unedited, written.entries, letter.last)",
        "",
        f"{_EDITS}test_several_letters_of_a_row",
    ),
    mutant(
        "an edit is taken for what an earlier letter wrote",
        "remember_retry",
        "unedited[letter.pk]",
        "texts",
        f"{_EDITS}test_an_edit_before_the_retry_of_another_letter_is_not_undone",
    ),
    mutant(
        "what was corrected in a letter is undone by a later one",
        "remember_retry",
        "writer.number_of(name) <= number",
        "True",
        f"{_EDITS}test_what_was_corrected_in_one_letter_is_an_edit_for_another",
    ),
    mutant(
        "what was corrected in a letter is struck out by the retry of a later one",
        "supersede",
        "older.number_of(n) > letter.last",
        "False",
        f"{_EDITS}test_what_was_corrected_in_one_letter_is_an_edit_for_another",
    ),
    mutant(
        "a row that an earlier letter deletes was deleted by somebody",
        "remember_retry",
        "writer.deleted",
        "False",
        f"{_EDITS}test_a_row_that_an_earlier_letter_deletes_is_made_anew",
    ),
    mutant(
        "a sum that was struck out of once takes another one for a Merge",
        "_without",
        "keys := older.merges.get(name)",
        "(keys := older.merges.get(name, {})) is not None",
        f"{_EDITS}test_sums_of_several_letters",
    ),
    mutant(
        "a letter does not know what was stored",
        "bury",
        "stored.get(entry.id, '')",
        "''",
        f"{_EDITS}test_an_edit_is_not_undone",
    ),
    mutant(
        "a letter that deletes knows of no field",
        "_names",
        "entry.deleted or entry.older or entry.broken or entry.version != buffer.version",
        "False",
        f"{_EDITS}test_a_row_that_was_edited_is_not_deleted",
    ),
    mutant(
        "a sum undoes an edit",
        "_is_sum",
        "name not in entry.values and all(segment.sign == '+' for segment in segments)",
        "False",
        f"{_EDITS}test_a_sum_is_added_to_an_edit",
    ),
    mutant(
        "a Merge is asked about all keys",
        "_edits",
        "letter == now or (letter and _keeps(column, entry, before, now))",
        "letter == now",
        f"{_EDITS}test_of_a_merge_its_own_keys_count",
    ),
    mutant(
        "a row that was deleted since is made anew",
        "_edits",
        "then is not None and folded.values is not None",
        "False",
        f"{_EDITS}test_a_row_that_was_deleted_is_not_made_anew",
    ),
    mutant(
        "a field that is corrected is known as it was long ago",
        "remembered_anew",
        "letter.stored and new",
        "False",
        f"{_EDITS}test_a_field_that_was_corrected_counts_from_then_on",
    ),
    mutant(
        "one key that is no key hides the rows of others",
        "_stored",
        "{name: row for id in ids for name, row in _stored(layout, [id]).items()}",
        "{}",
        f"{_EDITS}test_a_key_that_the_database_does_not_take",
        f"{_EDITS}test_what_is_not_to_be_understood",
    ),
    mutant(
        "an edit is told with sensitive values",
        "refuse",
        "edit.name in hidden",
        "False",
        f"{_EDITS}test_what_is_sensitive_is_not_told",
    ),
    mutant(
        "the page of a letter shows sensitive edits",
        "masked_edits",
        "hides(buffer, hidden, edit.name)",
        "False",
        f"{_LETTERS}test_a_sensitive_edit_is_masked",
    ),
    mutant(
        "a discarded letter is a letter",
        "LetterManager.get_queryset",
        "super().get_queryset().filter(discarded_at=None)",
        "super().get_queryset()",
        f"{_POISON}test_the_receipt_of_a_discarded_letter_says_so",
    ),
    mutant(
        "what was discarded is dead for ever",
        "Receipt._after_redis",
        "'dead' if letter.discarded_at is None else 'discarded'",
        "'dead'",
        f"{_POISON}test_the_receipt_of_a_discarded_letter_says_so",
    ),
    # Forms and inlines
    mutant(
        "what clean() changes in a field that nobody touched is not written",
        "_changed",
        "{**row.__dict__[_SHOWN], **_as_sent(row, form)}",
        "{n: v for n, v in row.__dict__[_SHOWN].items() if n not in form.fields}",
        f"{_FORM}test_what_code_changes_in_a_field_of_the_form_is_written_too",
    ),
    mutant(
        "a form writes what it shows",
        "_changed",
        "{**row.__dict__[_SHOWN], **_as_sent(row, form)}",
        "row.__dict__[_SHOWN]",
        f"{_FORM}test_who_edit_at_once_lose_nothing_that_one_of_them_did_not_touch",
    ),
    mutant(
        "a row is made over one that is pending",
        "_Forms._form_class",
        "buffer is None",
        "True",
        f"{_FORM}test_a_key_that_is_pending_is_taken",
    ),
    mutant(
        "an inline shows what is stored",
        "_shown_formset",
        "_shown_page(buffer, super().get_queryset())",
        "super().get_queryset()",
        f"{_INLINE}test_it_shows_what_is_pending",
    ),
    mutant(
        "an inline saves past the buffer",
        "_shown_formset",
        "not commit or _SHOWN not in obj.__dict__",
        "True",
        f"{_INLINE}test_what_was_changed_in_it_is_written_through_the_buffer",
    ),
    mutant(
        "an inline deletes what it was only asked about",
        "_shown_formset",
        "if commit:\n    _delete(buffer, [obj])",
        "_delete(buffer, [obj])",
        f"{_INLINE}test_who_saves_the_rows_by_himself_saves_what_was_shown",
    ),
    # Fences
    mutant(
        "what another save left between the look and the lock is lost",
        "overwrites",
        "older = find_older(buffer, older)",
        "pass",
        "tests/integration/test_orm_between.py",
    ),
    mutant(
        "a sum that nobody can ask for is lost to one of the database",
        "Overwrite.note_expressions",
        "of_nullable[name] = found",
        "pass",
        f"{_BETWEEN}test_redis_cannot_be_asked",
    ),
    mutant(
        "a save locks the fence before the row",
        "overwrites",
        "stored = rows_by_id(layout, ids, lock=True)",
        "if older:\n    fences.lock(buffer, older)\nstored = rows_by_id(layout, ids, lock=True)",
        f"{_BETWEEN}test_the_caller_of_another_has_locked_the_row",
        databases=("postgresql",),
    ),
    mutant(
        "a delete locks the fence before the row",
        "_leave",
        "lock_rows(layout, (row.pk for row in rows))",
        "{}",
        f"{_BETWEEN}test_the_caller_of_another_has_locked_the_row",
        databases=("postgresql",),
    ),
    mutant(
        "a save reads the fence as its transaction saw it first",
        "Overwrite.store",
        "fences.Fences(buffer, [self.id], lock=True)",
        "fences.Fences(buffer, [self.id])",
        f"{_BETWEEN}test_what_a_repeatable_read_does_not_see",
        databases=("mariadb",),
    ),
    mutant(
        "a save reads the ledger as its transaction saw it first",
        "Overwrite._in_redis",
        "state_of(layout, token, lock=True)",
        "state_of(layout, token)",
        f"{_BETWEEN}test_what_a_repeatable_read_does_not_see",
        databases=("mariadb",),
    ),
]
