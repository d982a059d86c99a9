"""Entry of `python benchmarks/trainer`: Python runs this file when it is given the folder."""

import sys

from trainerbench.cli import main

if __name__ == "__main__":  # the processes that measure import this file too
    sys.exit(main())
