"""Entry of `python3 hack/cluster`: Python runs this file when it is given the folder."""

import sys

from localkube.cli import main

sys.exit(main())
