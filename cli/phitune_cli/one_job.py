"""Reading the one FineTuneJob that a command works on."""

from phitune_cli.yaml_documents import UnreadableError, read_manifests
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.validate import InvalidJobError, read_job
from phitune_trainer.errors import UserError


def read_one_job(file: str) -> FineTuneJob:
    """The only FineTuneJob of a file. UserError says all that is wrong with it, as the API server would."""
    try:
        manifests = [manifest for manifest in read_manifests(file) if manifest.kind == names.KIND]
    except UnreadableError as error:
        raise UserError(str(error)) from error
    if len(manifests) != 1:
        raise UserError(f"{file}: has {len(manifests)} objects of kind {names.KIND}; exactly one is needed")
    where = manifests[0].where
    try:
        return read_job(manifests[0].value)
    except InvalidJobError as error:
        raise UserError("\n".join(f"{where}: {problem}" for problem in error.problems)) from error
