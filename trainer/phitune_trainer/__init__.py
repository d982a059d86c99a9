"""The trainer of Phitune: fine-tunes Phi-3.5-vision from one resolved config. Knows nothing of Kubernetes."""

import os
import signal
import sys

from phitune_trainer.exit_codes import INTERRUPTED

if os.getpid() == 1 and sys.argv[0] == "-m":
    # A module of ours begins as process 1 of a pod. The kernel drops signals that process 1 does not listen
    # for, and it takes seconds to import all that it needs before it can do so in its own way.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED))
