"""The tables of the package itself."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class AppliedBatch(models.Model):
    """The ledger: a batch that is in the database, written in the transaction of its rows.

    A batch whose token is here is never applied again. The table lives in the database of the
    rows, and is the history of the flushes too.
    """

    token = models.CharField(_("token"), max_length=32, primary_key=True)
    buffer = models.CharField(_("buffer"), max_length=200)
    shard = models.PositiveIntegerField(_("shard"))
    # Of a log's batch: the number of its last record. All up to the greatest are in the database,
    # which every window() asks for.
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
            models.Index(fields=["buffer", "applied_at"], name="writebehind_applied"),
        ]

    def __str__(self) -> str:
        return f"{self.buffer} {self.token}"


class DeadLetter(models.Model):
    """An entry that the database refused for what it contains."""

    buffer = models.CharField(_("buffer"), max_length=200)
    shard = models.PositiveIntegerField(_("shard"))
    number = models.BigIntegerField(_("number"))  # of the entry
    digest = models.CharField(_("digest"), max_length=40)  # of the entry's id, which may be long
    # JSON in text: what a JSON column refuses may be what the letter is here for.
    entry = models.TextField(_("entry"))
    superseded = models.JSONField(_("superseded"), default=list)  # fields that were written since
    error = models.CharField(_("error"), max_length=100)  # the class
    reason = models.TextField(_("reason"))
    attempts = models.PositiveIntegerField(_("attempts"), default=1)
    first_seen = models.DateTimeField(_("first seen"))
    last_seen = models.DateTimeField(_("last seen"), db_index=True)

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering = ("pk",)
        indexes = [
            models.Index(fields=["buffer", "digest"], name="writebehind_dead_key"),
            models.Index(fields=["buffer", "shard", "number"], name="writebehind_dead_number"),
        ]

    def __str__(self) -> str:
        return f"{self.buffer} {self.pk}: {self.reason}"


class DiscardedLetter(models.Model):
    """A dead letter that was discarded: by this, the receipts of its writes know."""

    buffer = models.CharField(_("buffer"), max_length=200)
    shard = models.PositiveIntegerField(_("shard"))
    number = models.BigIntegerField(_("number"))  # of the entry
    digest = models.CharField(_("digest"), max_length=40)  # of the row's id
    discarded_at = models.DateTimeField(_("discarded"))

    class Meta:
        verbose_name = _("discarded dead letter")
        verbose_name_plural = _("discarded dead letters")
        indexes = [
            models.Index(fields=["buffer", "shard", "number"], name="writebehind_discarded"),
            models.Index(fields=["buffer", "discarded_at"], name="writebehind_discarded_at"),
        ]

    def __str__(self) -> str:
        return f"{self.buffer} {self.number}"


class OnceKey(models.Model):
    """A key that was given for a call, so that the call is carried out once; see once.py."""

    buffer = models.CharField(_("buffer"), max_length=200)
    digest = models.CharField(_("digest"), max_length=40)
    calls = models.IntegerField(_("calls"), default=0)  # that Redis may have taken
    done = models.BooleanField(_("done"), default=False)  # what it wrote is stored
    at = models.BigIntegerField(_("at"))  # when it was first given, in µs since 1970

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
    """That a schedule of Django-Q2 was made: it is not made again by itself, whoever removed it."""

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
