"""Entry of `python hack/demo`: Python runs this file when it is given the folder."""

import sys

from journey.cli import main

sys.exit(main())
