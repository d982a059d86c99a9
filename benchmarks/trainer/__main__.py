"""Entry of `python benchmarks/trainer`: Python runs this file when it is given the folder."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "common"))

from trainerbench.cli import main

if __name__ == "__main__":  # the processes that measure import this file too
    sys.exit(main())
