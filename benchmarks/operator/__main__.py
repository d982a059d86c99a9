"""Entry of `python benchmarks/operator`: Python runs this file when it is given the folder."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(REPOSITORY / folder) for folder in ("benchmarks/common", "hack/cluster")]

from operatorbench.cli import main  # noqa: E402 - it needs the folders beside this one

sys.exit(main())
