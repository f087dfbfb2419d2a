"""Signals, sent from the process that flushes."""

from __future__ import annotations

from django.dispatch import Signal

# After a batch was committed and acknowledged: sender=the model, buffer, shard, applied.
flushed = Signal()

# After a batch failed and was given back: sender=the model, buffer, shard, error, attempts.
flush_failed = Signal()

# After a batch that left dead letters was acknowledged: sender=the model, buffer, shard, letters.
dead_lettered = Signal()
