"""Commands of `phitune` as a user starts them."""

import signal
import subprocess
import sys

from benchrows.row import NotMeasured


def phitune(*arguments: str) -> str:
    """Run `phitune`; its standard output. Raises NotMeasured where it fails, with the end of what it said.

    An interruption reaches the command too, which is waited for: it may have to tidy up.
    """
    argv = [sys.executable, "-m", "phitune_cli.main", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode:
        said = (output + errors)[-2000:].strip()
        raise NotMeasured(f"phitune {' '.join(arguments)}: exit code {process.returncode}\n{said}")
    return output
