"""The command line of `hack/images`."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path

from imagebuild import bundle
from imagebuild.build import IMAGES, Built, build
from imagebuild.process import BuildError, say
from imagebuild.recipes import BASE_IMAGE, releases


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the arguments say; returns the exit status (2: it cannot be built, 130: interrupted)."""
    parser = _parser()
    options = parser.parse_args(argv)
    # Ended from outside, leave as tidily as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    known = releases() if options.release else [*IMAGES]
    if options.image not in (*known, "all"):
        parser.error(
            f"IMAGE is one of {', '.join(known)}, all {'with' if options.release else 'without'} --release"
        )
    names = known if options.image == "all" else [options.image]
    base_image = options.base_image if options.release else None
    try:
        built = build(
            names,
            tag=options.tag,
            out=options.out,
            registry=options.push,
            release_on=base_image,
            jobs=options.jobs,
        )
        if options.bundle:
            bundle.write(built, options.bundle)
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
        "Without --release, the trainer's image holds stand-ins for CUDA libraries: it is for CPUs.",
    )
    command.add_argument(
        "image",
        nargs="?",
        default="all",
        metavar="IMAGE",
        help=f"{', '.join(IMAGES)}; with --release {', '.join(releases())} (default: all)",
    )
    command.add_argument("--tag", help="tag of the images (default: a hash of their content)")
    command.add_argument("--out", type=Path, help="also copy the archives into this folder")
    command.add_argument("--push", metavar="REGISTRY", help="also push, as REGISTRY/phitune/NAME:TAG")
    command.add_argument(
        "--release",
        action="store_true",
        help="build images of a release, whole, from docker/*.Dockerfile: the trainer's are for GPUs",
    )
    command.add_argument(
        "--base-image", default=BASE_IMAGE, metavar="IMAGE", help="what a release stands on (%(default)s)"
    )
    command.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="files of flash-attn compiled at a time, each in up to 4 GB of memory (%(default)s)",
    )
    command.add_argument(
        "--bundle", type=Path, metavar="FILE", help="also write images, chart and CRDs as one archive"
    )
    command.add_argument("--json", action="store_true", help="print what was built as JSON")
    return parser
