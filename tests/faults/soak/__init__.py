"""Writers, readers and flushers at work while their processes and their servers die.

    make soak MINUTES=20 DATABASE=postgresql        python -m tests.faults.soak --help

`facts.py` has what a writer knows of what it wrote, `workers.py` the processes, `chaos.py` what is
done to them, `verdict.py` what has to be in the database in the end.
"""

from __future__ import annotations
