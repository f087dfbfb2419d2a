"""The tables of the package itself."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _


class TokenField(models.CharField):  # type: ignore[type-arg]
    """The token of a batch.

    PostgreSQL has two names for one type. With the shorter one, Django makes a second index, for
    LIKE, which nobody asks of a token.
    """

    def db_type(self, connection: Any) -> str | None:
        if connection.vendor == "postgresql":
            return f"character varying({self.max_length})"
        return super().db_type(connection)


class AppliedBatch(models.Model):
    """The ledger: a batch that is in the database, written in the transaction of its rows.

    A batch whose token is here is never applied again. The table lives in the database of the
    rows, and is the history of the flushes too. It grows by a row with each batch, so it has three
    indexes and no more: on the token; on the time, for the admin and for what is deleted; and on
    `upto`.
    """

    token = TokenField(_("token"), max_length=32, primary_key=True)
    buffer = models.CharField(_("buffer"), max_length=200)
    shard = models.PositiveIntegerField(_("shard"))
    # Of a log's batch: the number of its last record. All up to the greatest are in the database,
    # which every window() asks for. Of any other: its own number, by which a read sees that a later
    # batch of the shard was stored meanwhile.
    upto = models.BigIntegerField(_("up to"), null=True)
    entries = models.PositiveIntegerField(_("entries"))  # claimed
    rows = models.PositiveIntegerField(_("rows"), default=0)  # written or deleted
    dead_letters = models.PositiveIntegerField(_("dead letters"), default=0)
    statements = models.PositiveIntegerField(_("statements"), default=0)
    attempts = models.PositiveIntegerField(_("failed attempts"), default=0)  # before this one
    error = models.CharField(_("last error"), max_length=500, default="")  # of these
    oldest_at = models.DateTimeField(_("oldest write"))  # the first write that is in the batch
    applied_at = models.DateTimeField(_("applied"), db_index=True)
    duration = models.DurationField(_("duration"), null=True)

    class Meta:
        verbose_name = _("applied batch")
        verbose_name_plural = _("flush history")
        ordering = ("-applied_at",)
        indexes = [
            models.Index(fields=["buffer", "shard", "upto"], name="writebehind_upto"),
        ]

    def __str__(self) -> str:
        return f"{self.buffer} {self.token}"


class LetterManager(models.Manager["DeadLetter"]):
    """The letters that nobody has discarded."""

    def get_queryset(self) -> models.QuerySet[DeadLetter]:
        return super().get_queryset().filter(discarded_at=None)


class DeadLetter(models.Model):
    """An entry that the database refused for what it contains.

    Of one that was discarded nothing is kept but what the receipts of its writes ask for.
    """

    buffer = models.CharField(_("buffer"), max_length=200)
    shard = models.PositiveIntegerField(_("shard"))
    first = models.BigIntegerField(_("first write"))  # the numbers of the writes in the entry
    last = models.BigIntegerField(_("last write"))
    digest = models.CharField(_("digest"), max_length=40)  # of the entry's id, which may be long
    row = models.CharField(_("row"), max_length=40)  # the digest of the row's id
    # JSON in text: what a JSON column refuses may be what the letter is here for.
    entry = models.TextField(_("entry"))
    stored = models.TextField(_("stored then"), default="")  # JSON; see edits.py
    superseded = models.JSONField(_("superseded"), default=list)  # fields that were written since
    error = models.CharField(_("error"), max_length=100)  # the class
    reason = models.TextField(_("reason"))
    attempts = models.PositiveIntegerField(_("attempts"), default=1)
    first_seen = models.DateTimeField(_("first seen"))
    last_seen = models.DateTimeField(_("last seen"), db_index=True)
    discarded_at = models.DateTimeField(_("discarded"), null=True)

    objects = LetterManager()
    every: models.Manager[DeadLetter] = models.Manager()  # those that were discarded, too

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering = ("pk",)
        indexes = [
            models.Index(fields=["buffer", "digest"], name="writebehind_dead_key"),
            models.Index(fields=["buffer", "discarded_at"], name="writebehind_dead_discarded"),
        ]

    def __str__(self) -> str:
        return f"{self.buffer} {self.pk}: {self.reason}"


class OnceKey(models.Model):
    """The idempotency key of a stored call: it is not taken again. See once.py."""

    buffer = models.CharField(_("buffer"), max_length=200)
    digest = models.CharField(_("digest"), max_length=40)
    at = models.BigIntegerField(_("at"))  # when it was stored, in µs since 1970

    class Meta:
        verbose_name = _("key of a call")
        verbose_name_plural = _("keys of calls")
        constraints = [
            models.UniqueConstraint(fields=["buffer", "digest"], name="writebehind_once_key")
        ]
        indexes = [models.Index(fields=["buffer", "at"], name="writebehind_once_at")]

    def __str__(self) -> str:
        return f"{self.buffer} {self.digest}"


class Fence(models.Model):
    """What was written to a row directly, past Redis, so that nothing older comes over it."""

    buffer = models.CharField(_("buffer"), max_length=200)
    digest = models.CharField(_("digest"), max_length=40)  # of the id of the row, or of an entity
    marks = models.TextField(_("marks"))  # JSON; see fences.py
    at = models.BigIntegerField(_("at"))  # the last direct write, in µs since 1970

    class Meta:
        verbose_name = _("fence")
        verbose_name_plural = _("fences")
        constraints = [
            models.UniqueConstraint(fields=["buffer", "digest"], name="writebehind_fence_key")
        ]
        indexes = [models.Index(fields=["buffer", "at"], name="writebehind_fence_at")]

    def __str__(self) -> str:
        return f"{self.buffer} {self.digest}"


class MadeSchedule(models.Model):
    """Notes that a schedule of Django-Q2 was made. If somebody removes it, `migrate` does not make
    it again."""

    name = models.CharField(_("name"), max_length=100, primary_key=True)
    at = models.DateTimeField(_("last asked for"))

    class Meta:
        verbose_name = _("made schedule")
        verbose_name_plural = _("made schedules")

    def __str__(self) -> str:
        return self.name


class Dashboard(models.Model):
    """Has no table: it stands for the buffers in the admin, and carries what people may do there.

    `user.has_perm("writebehind.flush")`, and so on.
    """

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view", "Can see what is pending, dead letters and the history of the flushes"),
            ("flush", "Can flush pending entries"),
            ("discard", "Can discard pending entries and dead letters"),
            ("retry", "Can correct and retry dead letters"),
            ("pause", "Can pause and resume flushing"),
            ("reveal", "Can see sensitive values"),
        ]
        verbose_name = _("dashboard")
        verbose_name_plural = _("dashboard")

    def __str__(self) -> str:
        return "Write-behind"
