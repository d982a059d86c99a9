"""`python3 operator_with_clock.py FILE ARGUMENTS`: the operator, whose clock is off by the seconds in FILE.

A machine's clock is one for all that runs on it, so a test cannot turn it. The operator takes its time from
one function, and here that is another one.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from phitune_operator import main
from phitune_operator.clock import utc_now

OFFSET = Path(sys.argv.pop(1))


def shifted_now() -> datetime:
    return utc_now() + timedelta(seconds=float(OFFSET.read_text()))


if __name__ == "__main__":
    setattr(main, "utc_now", shifted_now)  # noqa: B010 - a name that main only imports
    main.main()
