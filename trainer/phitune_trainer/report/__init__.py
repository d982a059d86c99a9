"""report.html: a run on one page that needs no network and no server."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phitune_trainer.errors import Interrupted
from phitune_trainer.report.page import pictures_shown, render
from phitune_trainer.report.run_record import read_run
from phitune_trainer.run_layout import RunLayout, write_atomically


def write_report(
    layout: RunLayout, *, out: Path | None = None, result: Mapping[str, Any] | None = None
) -> Path:
    """Write the report of a run in whatever state, and return its place: report.html in the run's folder.

    `result` stands for a result.json that is still to be written. UserError where the folder is no run,
    OSError where `out` cannot be written.
    """
    out = out or layout.report
    run = read_run(layout, result)
    names = pictures_shown(run)
    thumbnails = {}
    if names:
        from phitune_trainer.report.pictures import thumbnails as find  # it imports torch

        thumbnails = find(layout.config, run.volume, names)
    write_atomically(out, render(run, thumbnails))
    return out


def keep_report(layout: RunLayout, result: Mapping[str, Any], warn: Callable[[str], None]) -> dict[str, str]:
    """Write the report of a run that is done; its place on the volume, by the kind of artifact.

    What was trained is worth more than its report: whatever goes wrong here is a warning, and no artifact.
    """
    try:
        return {"report": layout.on_volume(write_report(layout, result=result))}
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - as said above
        again = f"`phitune report {layout.path}` writes it once that is mended"
        warn(f"no report: {type(error).__name__}: {error}; {again}")
        return {}
