"""The end of a run: exports, proof of training, and the result."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phitune_trainer.card_facts import facts_of_run
from phitune_trainer.evaluate.kept import read_metrics
from phitune_trainer.export import export
from phitune_trainer.incarnation import refuse_if_superseded
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method
from phitune_trainer.model_card import model_card
from phitune_trainer.progress import Progress, timestamp
from phitune_trainer.report import keep_report
from phitune_trainer.result import write_result
from phitune_trainer.run_layout import IncarnationFolder, RunLayout
from phitune_trainer.score_words import score_words


def finish(run: Run, method: Method, layout: RunLayout, folder: IncarnationFolder, progress: Progress) -> str:
    """Export on rank 0, prove the training on all ranks; the sentence to end with.

    Superseded where a start newer than `folder` exists: the exports and the result are then its to write.
    """
    digest = parameters_hash(run.engine.parameters)
    run.narrator.report(parametersHash=digest)
    progress.update(state="saving")

    def write(go_on: Callable[[], object]) -> dict[str, str]:
        def written(_: Path) -> None:
            progress.update()  # a sign of life, for whoever looks for one
            go_on()

        return write_exports(run, method, layout, folder, digest, written)

    artifacts = run.world.from_first_at_length(write)
    progress.update(state="done")
    snapshot = progress.snapshot()
    shown = ("loss", "learningRate", "epoch")
    result = {
        "version": 1,
        "job": run.config.run.model_dump(by_alias=True),
        "method": run.config.method,
        "task": run.config.task,
        "steps": run.total_steps,
        "progress": {name: snapshot[name] for name in shown},
        "lastCheckpoint": snapshot["lastCheckpoint"],
        "evaluation": snapshot["evaluation"],
        "artifacts": artifacts,
        "parametersHash": digest,
        "finishedAt": timestamp(),
    }
    artifacts |= run.world.from_first(lambda: keep_report(layout, result, run.narrator.trouble))
    run.world.from_first(lambda: complete(layout, folder, result))
    run.narrator.report(artifacts=artifacts)
    scores = snapshot["evaluation"]
    said = f"; {score_words(scores)}" if scores else ""
    return f"done: {run.total_steps} steps{said}; outputs in {layout.path}"


def write_exports(
    run: Run,
    method: Method,
    layout: RunLayout,
    folder: IncarnationFolder,
    digest: str,
    on_written: Callable[[Path], None],
) -> dict[str, str]:
    """What the run leaves, by kind: paths on the volume. `digest` is that of the trained parameters;
    `on_written` is told of each file of weights.
    """
    refuse_if_superseded(layout, folder)
    facts = facts_of_run(
        run.config,
        layout,
        step=run.total_steps,
        scores=read_metrics(folder.evaluation(run.total_steps)) or None,
        dtype=str(method.model.lm_head.weight.dtype).removeprefix("torch."),
    )
    made = export(
        method,
        run.config,
        layout,
        card=partial(model_card, facts),
        source=f"parameters {digest}",
        on_written=on_written,
    )
    return {"run": layout.on_volume(layout.path), **made}


def complete(layout: RunLayout, folder: IncarnationFolder, result: dict[str, Any]) -> None:
    """Mark the run as complete, unless a newer start has it now."""
    refuse_if_superseded(layout, folder)
    write_result(layout, result)


def parameters_hash(parameters: dict[str, torch.nn.Parameter]) -> str:
    """SHA-256 over the bytes of the trained parameters: ranks that trained together agree on it."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        content = parameters[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
