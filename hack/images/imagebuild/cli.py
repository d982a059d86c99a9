"""The command line of `hack/images`."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from imagebuild.build import IMAGES, Built, build
from imagebuild.process import BuildError, say


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the arguments say; returns the exit status (2: it cannot be built, 130: interrupted)."""
    options = _parser().parse_args(argv)
    # Ended from outside, leave as tidily as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = IMAGES if options.image == "all" else (options.image,)
    try:
        built = build(names, tag=options.tag, out=options.out, registry=options.push)
    except BuildError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; what was finished stays in the cache")
        return 130
    if options.json:
        print(json.dumps([image.as_dict() for image in built], indent=2))
    else:
        for image in built:
            print(_line(image))
    return 0


def _line(image: Built) -> str:
    work = "unchanged" if image.was_there else f"built in {image.seconds:.1f} s"
    return f"{image.reference}  {image.bytes / 1e6:.0f} MB  {work}  {image.archive}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/images", description="Build Phitune's images on a machine without a container registry."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "build",
        help="build images and write them as OCI archives",
        description="Build images and write them as OCI archives into the cache, if anything changed. "
        "The trainer's image holds stand-ins for CUDA libraries: it is for CPUs. Release images are built "
        "with docker from docker/*.Dockerfile.",
    )
    command.add_argument("image", nargs="?", default="all", choices=[*IMAGES, "all"])
    command.add_argument("--tag", help="tag of the images (default: a hash of their content)")
    command.add_argument("--out", type=Path, help="also copy the archives into this folder")
    command.add_argument("--push", metavar="REGISTRY", help="also push, as REGISTRY/phitune/NAME:TAG")
    command.add_argument("--json", action="store_true", help="print what was built as JSON")
    return parser
