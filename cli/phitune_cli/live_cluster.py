"""What a live cluster's operator would see of a job that is not applied yet, by the user's own rights."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from phitune_cli.finetune.connection import Cluster
from phitune_cli.finetune.problems import NotAllowed, WrongInput
from phitune_operator import names
from phitune_operator.api import FineTuneJob
from phitune_operator.blocked import BlockedError
from phitune_operator.cluster_settings import (
    SettingsError,
    network_profiles,
    pools,
    trainer_images,
    wants_gang_scheduling,
)
from phitune_operator.decide import check, subject_of
from phitune_operator.kinds import CLAIM, LOCAL_QUEUE, NODE, POD, Kind, Object, name_of
from phitune_operator.nodes import Node, read_nodes
from phitune_operator.observed import Observed, Settings
from phitune_operator.policies.free import pool_for, why_not_now
from phitune_operator.render.subject import Subject

DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
SECRET: Final = Kind("", "v1", "secrets", "Secret")
OPERATOR: Final = "app.kubernetes.io/name=phitune-operator"


@dataclass
class LiveCluster:
    """A cluster, read once for all jobs. What cannot be read for want of a right is said in `notes`."""

    cluster: Cluster
    image: str | None
    """Of jobs that name none, instead of the operator's."""
    default_image: str
    """Of jobs that name none, where there is no operator."""
    notes: list[str] = field(default_factory=list)

    def decide(self, job: FineTuneJob, namespace: str, uid: str) -> tuple[Subject, list[str]]:
        """The job with what the operator would decide for it, and sentences on that.

        Raises BlockedError where the operator would make nothing, and Problem where the cluster cannot be
        read.
        """
        here = Cluster(self.cluster.api, namespace)
        seen = self._observed(here, job, namespace, uid)
        check(seen)
        subject, placement = subject_of(seen)
        self._check_secrets(here, job)
        said = [placement["reason"], *placement.get("notes", [])]
        grows = placement.get("pool") or pool_for(seen, subject, product=placement.get("product", ""))
        if not grows and (why := why_not_now(seen, subject)):
            said.append(f"the operator would wait: {why}")
        return subject, said

    def _observed(self, here: Cluster, job: FineTuneJob, namespace: str, uid: str) -> Observed:
        metadata = {"name": job.metadata.name, "namespace": namespace, "uid": uid}
        claim = job.spec.storage.claim_name or names.workspace_claim(job.metadata.name)
        return Observed(
            now=datetime.now(UTC),
            settings=self._settings,
            raw={"metadata": metadata},
            job=job,
            claim=here.get(CLAIM, claim),
            nodes=self._nodes if job.spec.resources.gpus_per_node else self._hosts,
            queues=self._queues(here, job.spec.queue_name) if job.spec.queue_name is not None else None,
        )

    def _queues(self, here: Cluster, wanted: str) -> tuple[str, ...] | None:
        """The namespace's LocalQueues; None without Kueue."""
        try:
            return tuple(map(name_of, here.list(LOCAL_QUEUE)))
        except NotAllowed as problem:
            self._note(f"spec.queueName: not known whether queue {wanted} is there: {problem}")
            return (wanted,)
        except WrongInput:
            return None  # there is no such kind

    def _check_secrets(self, here: Cluster, job: FineTuneJob) -> None:
        """The operator may not read secrets; the user may, and would learn of it from the first pod only."""
        for path, secret, key in _secrets(job):
            try:
                found = here.get(SECRET, secret)
            except NotAllowed as problem:
                self._note(f"{path}: not known whether secret {secret} is there: {problem}")
                continue
            if found is None:
                raise BlockedError("NoSecret", f"{path}: there is no secret {secret} in {here.namespace}")
            if key is not None and key not in (found.get("data") or {}):
                raise BlockedError(
                    "NoSecret", f"{path}: secret {secret} in {here.namespace} has no key {key}"
                )

    @cached_property
    def _hosts(self) -> tuple[Node, ...] | None:
        """The nodes for a job on CPU, which is placed without them, too."""
        try:
            return self._nodes
        except NotAllowed as problem:
            self._note(f"not known whether nodes are large enough, and free: {problem}")
            return None

    @cached_property
    def _nodes(self) -> tuple[Node, ...]:
        nodes = self.cluster.list(NODE, everywhere=True)
        pods: list[Object] | None = None
        try:
            pods = self.cluster.list(POD, everywhere=True)
        except NotAllowed as problem:
            self._note(f"nodes are taken to be free: {problem}")
        return read_nodes(nodes, pods)

    @cached_property
    def _settings(self) -> Settings:
        from phitune_operator.main import hub_access, network_access

        environment = self._environment()
        try:
            return Settings(
                trainer_image=self.image or environment.get("PHITUNE_TRAINER_IMAGE") or self.default_image,
                trainer_images={} if self.image else trainer_images(environment),
                pools=pools(environment),
                pool_wait=timedelta(seconds=float(environment.get("PHITUNE_POOL_WAIT", "900"))),
                network_profiles=network_profiles(environment),
                hub=hub_access(environment),
                network=network_access(environment),
                gang_scheduling=wants_gang_scheduling(environment),
            )
        except SettingsError as error:
            raise WrongInput(f"the operator's Deployment: {error}") from error

    def _environment(self) -> dict[str, str]:
        """What the operator was told: the variables of its Deployment."""
        try:
            found = self.cluster.list(DEPLOYMENT, OPERATOR, everywhere=True)
        except NotAllowed as problem:
            self._note(f"the operator's images, pools and network profiles are not known: {problem}")
            found = []
        else:
            if not found:
                self._note("there is no operator here: its images, pools and network profiles are not known")
        containers = found[0]["spec"]["template"]["spec"]["containers"] if found else []
        return {
            variable["name"]: variable.get("value", "")
            for container in containers
            for variable in container.get("env") or []
        }

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _secrets(job: FineTuneJob) -> Iterator[tuple[str, str, str | None]]:
    """Field, secret, and the key that it must have, of every secret that the job names."""
    groups: dict[str, Any] = {
        "spec.model.tokenSecret": job.spec.model,
        "spec.data.tokenSecret": job.spec.data,
    }
    for path, group in groups.items():
        if group is not None and group.token_secret is not None:
            yield path, group.token_secret, names.SECRET_TOKEN_KEY
    for index, pull in enumerate(job.spec.image_pull_secrets or []):
        yield f"spec.imagePullSecrets[{index}]", pull.name, None
