"""The base image: a small Debian with Python, from packages alone."""

from __future__ import annotations

from pathlib import Path

from imagebuild.keys import key
from imagebuild.paths import remove
from imagebuild.process import run, say
from imagebuild.storage import Storage

PYTHON = "3.11"
SUITE = "bookworm"
PACKAGES = ("python3", "ca-certificates")
UNUSED = (
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/lintian/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*",
    "var/cache/ldconfig/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)
ENVIRONMENT = ("PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8")


def build(storage: Storage) -> str:
    """Make the base image unless it is there; returns its name."""
    name = f"localhost/phitune/base:{key(Path(__file__).read_bytes())}"
    if not storage.has(name):
        say(f"base: Debian {SUITE} with Python {PYTHON}")
        config = [word for entry in ENVIRONMENT for word in ("--env", entry)]
        with storage.new_image(name, on="scratch", config=config) as draft:
            include = f"--include={','.join(PACKAGES)}"
            run(
                ["debootstrap", "--variant=minbase", include, SUITE, draft.root],
                doing="installing Debian's packages",
            )
            for pattern in UNUSED:
                for path in draft.root.glob(pattern):
                    remove(path)
            # Device files are the runtime's business; those that debootstrap made would only get in its way.
            for path in (draft.root / "dev").iterdir():
                remove(path)
    return name
