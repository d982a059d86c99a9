"""What `phitune render` does. Apart from its options: their help need not wait for all that decides."""

import argparse
import json
import sys
from typing import Any, Final

from phitune_cli.commands import version
from phitune_cli.finetune.connection import Cluster, Target
from phitune_cli.finetune.problems import Problem
from phitune_cli.live_cluster import LiveCluster
from phitune_cli.saying import note
from phitune_cli.yaml_documents import Manifest, UnreadableError, read_manifests
from phitune_cli.yaml_text import to_documents
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.blocked import BlockedError
from phitune_operator.builds import BUILDS
from phitune_operator.defaults import Offer, Resolved, cpu_request, memory_limit, resolve
from phitune_operator.gpu_names import gpus_meant, is_whole
from phitune_operator.render import render_job
from phitune_operator.render.subject import Subject
from phitune_operator.suitable import check_memory, first_that_will_do
from phitune_operator.validate import InvalidJobError, read_job
from phitune_trainer.exit_codes import DONE, USER_ERROR
from phitune_trainer.memory import Gpu

UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server will give to the job."""


def render(args: argparse.Namespace) -> int:
    """Print the manifests of every job, or every problem; nothing is printed by halves."""
    try:
        live = _live(args) if args.cluster else None
        code = _print_all(args, live)
    except Problem as problem:
        for line in str(problem).splitlines():
            _say(line)
        return problem.exit_code
    for remark in live.notes if live is not None else ():
        _say(f"note: {remark}")
    return code


def _live(args: argparse.Namespace) -> LiveCluster:
    cluster = Cluster.connect(Target(args.kubeconfig, args.context, args.namespace))
    return LiveCluster(cluster, args.image, _default_image())


def _print_all(args: argparse.Namespace, live: LiveCluster | None) -> int:
    problems: list[str] = []
    objects: list[dict[str, Any]] = []
    num_jobs = 0
    places: dict[tuple[str, str], str] = {}
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
                default = live.cluster.namespace if live is not None else "default"
                place = (_namespace(job, args.namespace, default), job.metadata.name)
                if place in places:
                    problems.append(f"{manifest.where}: metadata.name: the same job as at {places[place]}")
                    continue
                places[place] = manifest.where
                objects += _render(job, place[0], args.image, manifest.where, live)
            except InvalidJobError as error:
                problems += [f"{manifest.where}: {problem}" for problem in error.problems]
            except NamespaceError as error:
                problems.append(f"{manifest.where}: metadata.namespace: {error}")
            except BlockedError as error:
                problems.append(f"{manifest.where}: {error.reason}: {error.message}")
    if not num_jobs and not problems:
        problems.append(f"no {names.KIND} in {', '.join(args.files)}")
    if problems:
        for problem in problems:
            _say(problem)
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


def _namespace(job: FineTuneJob, wanted: str | None, default: str) -> str:
    named = job.metadata.namespace
    if named and wanted and named != wanted:
        raise NamespaceError(f"is {named}, but --namespace is {wanted}")
    return named or wanted or default


def _render(
    job: FineTuneJob, namespace: str, image: str | None, where: str, live: LiveCluster | None
) -> list[dict[str, Any]]:
    if live is not None:
        subject, notes = live.decide(job, namespace, UNKNOWN_UID)
    else:
        subject, notes = _decided(job, namespace, image)
    for remark in notes:
        _say(f"{where}: note: {remark}")
    return list(render_job(subject))


def _default_image(build: str = "plain") -> str:
    return f"localhost/phitune/trainer:{version()}-{build}"


def _decided(job: FineTuneJob, namespace: str, image: str | None) -> tuple[Subject, list[str]]:
    """The job as it is decided on the first of the GPUs it names in whose memory it fits, or that can do it.

    Raises BlockedError: why the very first cannot.
    """
    offer = None if image else Offer(builds=BUILDS, driver=None)

    def decide(gpu: Gpu | None) -> Resolved:
        resolved = resolve(job, namespace=namespace, uid=UNKNOWN_UID, gpu=gpu, offer=offer)
        if gpu is not None:
            check_memory(resolved.train, resolved.memory, gpu)
        return resolved

    resolved = first_that_will_do(
        _named_gpus(job), decide, fits=lambda resolved: resolved.memory is None or resolved.memory.fits
    )
    default_image = _default_image(resolved.build.name) if resolved.build else _default_image()
    subject = Subject(
        namespace=namespace,
        name=job.metadata.name,
        uid=UNKNOWN_UID,
        spec=job.spec,
        train=resolved.train,
        image=job.spec.image or image or default_image,
        cpu=cpu_request(job.spec),
        memory=memory_limit(job.spec, resolved.train),
    )
    return subject, resolved.notes


def _named_gpus(job: FineTuneJob) -> list[Gpu | None]:
    """The GPUs that may be used, the best first; None for any of which nothing is known."""
    gpus: list[Gpu | None] = []
    for name in job.spec.resources.gpu_products or ():
        gpus += (gpus_meant(name) if is_whole(name) else []) or [None]
    return gpus or [None]


def _text(objects: list[dict[str, Any]], output: str) -> str:
    if output == "json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2) + "\n"
    return to_documents(objects)


def _say(message: str) -> None:
    """Print a line; texts out of a manifest do not make lines of their own."""
    note(message.replace("\n", "\\n"))
