"""`phitune data ucf101`: folders of videos as a data set of frames for task ucf101."""

import argparse
import os
import sys
from pathlib import Path

from phitune_cli.arguments import HelpFormatter, positive
from phitune_cli.progress_line import ProgressLine
from phitune_cli.saying import note, say
from phitune_trainer.durations import duration
from phitune_trainer.exit_codes import DONE, INTERRUPTED, USER_ERROR

_DESCRIPTION = """\
Take 8 frames of every video and write them as a data set that task ucf101 trains on.

  DIR of --videos                       DIR of --out
  train/Archery/v_Archery_g01_c01.avi   images/train/Archery/NAME.[0-7].jpg
  val/Archery/...                       ucf101_train.jsonl, ucf101_val.jsonl,
  test/Archery/...                      ucf101_test.jsonl

A line of a jsonl file is a video: its frames, the question and its class. The class is the name of the
video's folder; any classes will do, and any of the three splits. Frames are counted by decoding the video,
and the first one of each eighth is taken.

It may be stopped at any moment: run it again with the same folders, and it goes on. A video that cannot be
read is left out and named at the end, and the exit code is then 2."""

_EPILOG = """\
example:
  phitune data ucf101 --videos UCF101_subset/ --out data/ucf101/
  phitune data check data/ucf101/ucf101_train.jsonl --num-crops 4

then, in a FineTuneJob, with data/ucf101 copied to the volume:
  task: ucf101
  data: {path: data/ucf101}
"""

_SECONDS = 5.0
"""Between two lines of progress where the output is no terminal."""


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `ucf101` to the kinds of `phitune data`."""
    parser = kinds.add_parser(
        "ucf101",
        help="frames of UCF-101 videos, from .avi or .mp4",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make, or to go on with"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="videos decoded at once (default: one for each core, here %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Convert; the exit code."""
    from phitune_trainer.data import DataError
    from phitune_trainer.data.ucf101 import convert, find_videos
    from phitune_trainer.data.ucf101_frames import NUM_FRAMES

    try:
        videos = find_videos(args.videos)
        with ProgressLine(sys.stdout, every=_SECONDS) as progress:

            def on_progress(done: int, total: int) -> None:
                rate = done / max(progress.seconds, 1e-9)
                left = duration((total - done) / rate)
                line = f"{done:,} of {total:,} videos, {rate:.1f}/s, ETA {left}"
                progress.show(line, is_last=done == total)

            result = convert(videos, args.out, workers=args.workers, on_progress=on_progress)
    except DataError as error:
        note(f"phitune data ucf101: {error}")
        return USER_ERROR
    except KeyboardInterrupt:
        note("stopped; run it again to go on")
        return INTERRUPTED
    for split, count in result.converted.items():
        file = args.out / f"ucf101_{split}.jsonl"
        say(f"{file}: {count:,} videos, {NUM_FRAMES * count:,} pictures")
    if result.num_kept:
        say(f"{result.num_kept:,} videos were there from an earlier run")
    if result.short:
        what = "videos are shorter than they say or than 8 frames, and are used all the same"
        say(_list(what, result.short))
    if result.unreadable:
        note(_list("videos cannot be read, and are left out", result.unreadable))
    return USER_ERROR if result.unreadable else DONE


def _list(what: str, lines: list[str]) -> str:
    return "\n  ".join([f"{len(lines):,} {what}:", *lines])
