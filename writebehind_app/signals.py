"""Signals. Those about batches are sent from the process that flushes."""

from __future__ import annotations

from django.dispatch import Signal

# After a batch was committed and acknowledged: sender=the model, buffer, shard, applied.
flushed = Signal()

# After a batch failed and was given back: sender=the model, buffer, shard, error, attempts.
flush_failed = Signal()

# After a batch that left dead letters was acknowledged: sender=the model, buffer, shard, letters.
dead_lettered = Signal()

# In each process that writes or reads: once it stops asking Redis, and once it asks again. The
# sender is writebehind_app.store.breaker.Breaker; redis: which one, without a password; reason; and
# at the end seconds, for so long. The end is told from a thread of its own.
fallback_started = Signal()
fallback_ended = Signal()
