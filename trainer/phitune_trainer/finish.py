"""The end of a run: exports, proof of training, and the result."""

import hashlib

import torch

from phitune_trainer.export import export
from phitune_trainer.loop import Run
from phitune_trainer.methods import Method
from phitune_trainer.progress import Progress, timestamp
from phitune_trainer.result import write_result
from phitune_trainer.run_layout import RunLayout


def finish(run: Run, method: Method, layout: RunLayout, progress: Progress) -> str:
    """Export on rank 0, prove the training on all ranks; the sentence to end with."""
    digest = parameters_hash(run.engine.parameters)
    run.narrator.report(parametersHash=digest)
    progress.update(state="saving")
    artifacts = run.world.from_first(
        lambda: {"run": layout.on_volume(layout.path), **export(method, run.config, layout)}
    )
    progress.update(state="done")
    snapshot = progress.snapshot()
    shown = ("loss", "learningRate", "epoch", "lastCheckpoint", "evaluation")
    result = {
        "version": 1,
        "job": run.config.run.model_dump(by_alias=True),
        "method": run.config.method,
        "task": run.config.task,
        "steps": run.total_steps,
        "progress": {name: snapshot[name] for name in shown},
        "artifacts": artifacts,
        "parametersHash": digest,
        "finishedAt": timestamp(),
    }
    run.world.from_first(lambda: write_result(layout, result))
    run.narrator.report(artifacts=artifacts)
    scores = snapshot["evaluation"]
    score = (
        f"; {scores['metric']} {scores['value']:.4f} of {scores['samples']} held-out samples"
        if scores
        else ""
    )
    return f"done: {run.total_steps} steps{score}; outputs in {layout.path}"


def parameters_hash(parameters: dict[str, torch.nn.Parameter]) -> str:
    """SHA-256 over the bytes of the trained parameters: ranks that trained together agree on it."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        content = parameters[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
