"""Reading the one FineTuneJob that a command works on."""

from phitune_cli.yaml_documents import UnreadableError, read_manifests
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.validate import InvalidJobError, not_implemented, read_job
from phitune_trainer.errors import UserError


def read_one_job(file: str) -> FineTuneJob:
    """The only FineTuneJob of a file. UserError says all that is wrong with it, as the API server would."""
    return _read(file)[0]


def read_one_job_to_run(file: str) -> FineTuneJob:
    """The same; UserError too for what this version cannot run."""
    job, where = _read(file)
    if refused := not_implemented(job):
        raise UserError("\n".join(f"{where}: {path}: not available in this version" for path in refused))
    return job


def _read(file: str) -> tuple[FineTuneJob, str]:
    try:
        manifests = [manifest for manifest in read_manifests(file) if manifest.kind == names.KIND]
    except UnreadableError as error:
        raise UserError(str(error)) from error
    if len(manifests) != 1:
        raise UserError(f"{file}: has {len(manifests)} objects of kind {names.KIND}; exactly one is needed")
    where = manifests[0].where
    try:
        return read_job(manifests[0].value), where
    except InvalidJobError as error:
        raise UserError("\n".join(f"{where}: {problem}" for problem in error.problems)) from error
