"""`phitune render`: checks FineTuneJobs as the API server would, and shows what the operator would create."""

import argparse
import json
import sys
from typing import Any, Final

import yaml

from phitune_cli.main import version
from phitune_cli.yaml_documents import Manifest, UnreadableError, read_manifests
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.defaults import resolve
from phitune_operator.render import render_job
from phitune_operator.render.subject import Subject
from phitune_operator.validate import InvalidJobError, not_implemented, read_job
from phitune_trainer.exit_codes import DONE, USER_ERROR

UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server will give to the job."""

_EPILOG: Final = """\
examples:
  phitune render examples/digits.yaml
  phitune render -n team-a -o json job.yaml
  cat job.yaml | phitune render - > /dev/null && echo fine

Manifests go to standard output, problems to standard error; 2 is the exit code if there is one. The manifests
are to be looked at: their owner is a job that does not exist yet.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `render` and its options."""
    parser = subparsers.add_parser(
        "render",
        help="check a FineTuneJob, show what the operator would create",
        description="Check FineTuneJobs as the API server does, and print what the operator would create for "
        "them. No cluster is needed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML or JSON, - for standard input")
    parser.add_argument("-n", "--namespace", help="namespace of jobs that name none (default: default)")
    parser.add_argument(
        "--image", "--trainer-image", metavar="IMAGE", help="trainer image of jobs that name none"
    )
    parser.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml", help="default: yaml")


def main(args: argparse.Namespace) -> int:
    """Print the manifests of every job, or every problem; nothing is printed by halves."""
    image = args.image or f"localhost/phitune/trainer:{version()}"
    problems: list[str] = []
    objects: list[dict[str, Any]] = []
    num_jobs = 0
    for file in args.files:
        try:
            manifests = read_manifests(file)
        except UnreadableError as error:
            problems.append(str(error))
            continue
        for manifest in manifests:
            if not _is_ours(manifest):
                _say(f"{manifest.where}: {manifest.kind} {manifest.name} passed over: not a {names.KIND}")
                continue
            num_jobs += 1
            try:
                job = read_job(manifest.value)
                objects += _render(job, _namespace(job, args.namespace), image, manifest.where)
            except InvalidJobError as error:
                problems += [f"{manifest.where}: {problem}" for problem in error.problems]
            except NamespaceError as error:
                problems.append(f"{manifest.where}: metadata.namespace: {error}")
    if not num_jobs and not problems:
        problems.append(f"no {names.KIND} in {', '.join(args.files)}")
    if problems:
        _say("\n".join(problems))
        return USER_ERROR
    sys.stdout.write(_text(objects, args.output))
    return DONE


class NamespaceError(Exception):
    """The job names another namespace than the command line."""


def _is_ours(manifest: Manifest) -> bool:
    """Whether the object is meant to be a FineTuneJob, well or badly written."""
    if not isinstance(manifest.value, dict) or not manifest.kind or not manifest.api_version:
        return True
    is_our_kind = manifest.kind.lower().removesuffix("s") == names.KIND.lower()
    return is_our_kind or manifest.api_version.startswith(f"{names.GROUP}/")


def _namespace(job: FineTuneJob, wanted: str | None) -> str:
    named = job.metadata.namespace
    if named and wanted and named != wanted:
        raise NamespaceError(f"is {named}, but --namespace is {wanted}")
    return named or wanted or "default"


def _render(job: FineTuneJob, namespace: str, image: str, where: str) -> list[dict[str, Any]]:
    resolved = resolve(job, namespace=namespace, uid=UNKNOWN_UID)
    for path in not_implemented(job):
        _say(f"{where}: warning: {path}: not implemented in this version, the operator will refuse the job")
    for note in resolved.notes:
        _say(f"{where}: note: {note}")
    subject = Subject(
        namespace=namespace,
        name=job.metadata.name,
        uid=UNKNOWN_UID,
        spec=job.spec,
        train=resolved.train,
        image=job.spec.image or image,
    )
    return list(render_job(subject))


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, so that the config inside a ConfigMap can be read."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def _text(objects: list[dict[str, Any]], output: str) -> str:
    if output == "json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2) + "\n"
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr)
