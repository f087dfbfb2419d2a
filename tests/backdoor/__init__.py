"""The only place in tests, but for tests/unit, that knows how the inside of the package looks.

One noun a module. A function says what a test wants ("the lease of the batch is over"), in the
words of the documents, and not how the package keeps it: whoever changes the inside changes this
directory and no other test. tests/unit/test_backdoor.py sees to it.

    from tests.backdoor.batches import claim, end_lease

| module | what it lets a test do |
|---|---|
| batches | claim a batch and die, end its lease, apply or acknowledge it late |
| entries | look at a pending entry as Redis has it, spoil it, plant one, make it older |
| records | the same for the records of a log |
| shards | counters and numbers of a shard; whether anything is left in it |
| keyspace | which keys there are, and which of them expire |
| hostile | leave in Redis what nobody but an attacker would write |
| calls | count round trips; lose replies; have Redis forget the scripts |
| links | call over the connections that a process keeps; have one in use |
| breaker, clock | what a process knows of Redis |
| reads | act between two looks of a read |
| bases | look at the copies of stored rows, spoil one; die before they are dropped |
| fences | how many rows have a fence |
| flushes | have the database refuse, or the package break a promise |
| declarations | declare a buffer anew, as a deploy does |
| locks | what is in Redis beside the entries |
| store | one shard by itself, with all that can be done to it |
| limits | shorten what a process waits for, or counts up to |
"""
