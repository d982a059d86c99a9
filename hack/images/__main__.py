"""Entry of `python3 hack/images`: Python runs this file when it is given the folder."""

import sys

from imagebuild.cli import main

sys.exit(main())
