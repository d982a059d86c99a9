"""One rank of a training run, from its config to its result. The launcher starts one for each device."""

import os
import sys
import traceback
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

from phitune_trainer.build import build_engine, build_run, load_datasets, load_method
from phitune_trainer.checkpoint.start import begin, restore
from phitune_trainer.config import TrainConfig, load_config
from phitune_trainer.data.workers import Loader, choose_num_workers, start_loader
from phitune_trainer.endings import ending_of
from phitune_trainer.engine.heartbeat import Loss
from phitune_trainer.engine.world import World, join_world, leave_world
from phitune_trainer.errors import FAULT, Interrupted, UserError
from phitune_trainer.exit_codes import DONE, INTERRUPTED
from phitune_trainer.finish import finish
from phitune_trainer.logs import quieten_libraries
from phitune_trainer.loop import train
from phitune_trainer.narrator import Narrator
from phitune_trainer.out_of_memory import ending_out_of_memory, fit
from phitune_trainer.processes import available_cpus, die_with_parent
from phitune_trainer.progress import Progress, progress_host, progress_port, serve
from phitune_trainer.reports import reports_folder
from phitune_trainer.result import read_result
from phitune_trainer.run_layout import RunLayout
from phitune_trainer.same_run import keep_config
from phitune_trainer.stop import StopRequest
from phitune_trainer.summary import keep_summary, summary, summary_lines
from phitune_trainer.termination import attempt


def main() -> int:
    """Run this rank to its end; the exit code (exit_codes.py)."""
    die_with_launcher()
    quieten_libraries()
    stop = StopRequest()
    progress = Progress(attempt=attempt())
    rank = int(os.environ.get("RANK", "0"))
    narrator = Narrator(rank, reports_folder(), progress)
    volume = None
    try:
        config = load_config(Path(os.environ.get("PHITUNE_CONFIG", "/etc/phitune/train.yaml")))
        volume = Path(config.run.workspace)
        loader = start_data_workers(config)  # before this process has threads, sockets and a GPU
        if rank == 0 and serve(progress, progress_port(), progress_host()) is None:
            narrator.say(f"port {progress_port()} is taken here: /progress and /metrics are not served")
        world = join_world(
            config.world.device,
            volume,
            last_step=lambda: narrator.last_step,
            give_up=partial(end_for_want_of_others, narrator),
        )
        # Not before: the wait for the other ranks runs no Python, so that a handler would never be called.
        # The signal's own effect, an end at once, is right until then.
        stop.listen(partial(end_as_asked, world, narrator))
        with world.naming_the_lost():
            message = run_rank(config, world, narrator, progress, stop, loader)
    except (Exception, Interrupted) as error:  # noqa: BLE001 - whatever it is becomes an exit code
        code, reason, message = ending_of(error, volume)
        if code == FAULT and narrator.last_step:
            message = f"after step {narrator.last_step}: {message}"
        narrator.report(reason=reason, message=message)
        if reason == "Fault":
            traceback.print_exc()
        print(message, flush=True)
        # Closing the connections would wait for the other ranks, which may be waiting for this one.
        os._exit(code)
    narrator.say(message)
    narrator.report(reason="Completed", message=message)
    leave_world(world)
    return DONE


def end_as_asked(world: World, narrator: Narrator, message: str) -> NoReturn:
    """End this process as one that was asked to stop, from a thread while its main thread waits."""
    try:
        world.tell_of_stop(message)
        narrator.report(reason="Interrupted", message=message)
        print(message, flush=True)
    finally:
        os._exit(INTERRUPTED)


def end_for_want_of_others(narrator: Narrator, loss: Loss) -> NoReturn:
    """End this process from a thread, while its main thread waits in vain for ranks that are missing."""
    code, reason, message = ending_of(loss.error())
    try:
        if code == FAULT and narrator.last_step:
            message = f"after step {narrator.last_step}: {message}"
        narrator.report(reason=reason, message=message)
        print(message, flush=True)
    finally:
        os._exit(code)


def start_data_workers(config: TrainConfig) -> Loader:
    """Fork the processes that will prepare samples: they hold nothing that this one opens from now on."""
    num_workers = choose_num_workers(os.environ, cpus=available_cpus(), ranks=config.world.processes_per_node)
    return start_loader(num_workers)


def run_rank(
    config: TrainConfig,
    world: World,
    narrator: Narrator,
    progress: Progress,
    stop: StopRequest,
    loader: Loader,
) -> str:
    """Load, train, score, export; the sentence to end with."""
    layout = RunLayout(config.run_dir)
    with stop.ending_at_once("stopped while loading; nothing is lost"):
        if world.size != config.world.size:
            raise UserError(
                f"world: the config says {config.world.size} ranks, but {world.size} were started"
            )
        if (result := world.from_first(lambda: read_result(layout))) is not None:
            progress.update(
                state="done",
                step=result["steps"],
                totalSteps=result["steps"],
                lastCheckpoint=result["lastCheckpoint"],
                evaluation=result["evaluation"],
                **result["progress"],
            )
            narrator.report(artifacts=result["artifacts"])
            return f"this run is complete since {result['finishedAt']}: see {layout.result}"
        world.from_first(lambda: keep_config(layout, config))
        fitted = world.from_first(lambda: fit(layout, config))
        start = begin(config, world, attempt(), narrator.checking_progress)
        narrator.report(incarnation=start.folder.number, logs=str(start.folder.path / "logs"))
        samples, held_out = world.together(lambda: load_datasets(fitted.config))
        method = world.together(lambda: load_method(fitted.config, world))
        engine = build_engine(config, method, world)
        run = build_run(
            fitted.config,
            world,
            narrator,
            progress,
            stop,
            layout=layout,
            start=start,
            method=method,
            engine=engine,
            samples=samples,
            held_out=held_out,
            loader=loader,
        )
        restore(layout, start, engine)
        progress.update(lastCheckpoint=run.saver.last)
    if world.is_first:
        rows = summary(run, method, start, fitted, samples=samples, held_out=held_out)
        narrator.say(summary_lines(config, start.folder, rows))
        keep_summary(start.folder, rows, run.total_steps)
        if fitted.why is not None:
            narrator.say(fitted.why)
        if fitted.trouble is not None:
            narrator.trouble(fitted.trouble)
    with run.pictures or nullcontext(), ending_out_of_memory(layout, config, fitted):
        run.evaluate_before_training()
        train(run)
        run.evaluate()
    with stop.ending_at_once(f"stopped while exporting; step {run.step} is saved, and continues from there"):
        return finish(run, method, layout, start.folder, progress)


def die_with_launcher() -> None:
    """Let the kernel kill this process when its launcher is gone, so that no rank is ever left behind."""
    if (launcher := os.environ.get("PHITUNE_LAUNCHER")) is not None:
        die_with_parent(int(launcher))


if __name__ == "__main__":
    sys.exit(main())
