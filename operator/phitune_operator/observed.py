"""Everything that is known about one job at one moment: what `observe` gathers and `plan` decides on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from phitune_operator import names
from phitune_operator.api import FineTuneJob, FineTuneJobSpec
from phitune_operator.cluster_settings import NetworkProfile, Pool
from phitune_operator.kinds import (
    PYTORCHJOB,
    Key,
    Kind,
    Object,
    is_terminating,
    kind_of,
    labels_of,
    name_of,
    uid_of,
)
from phitune_operator.nodes import Node
from phitune_operator.pods import PodView
from phitune_operator.refusals import Refusal
from phitune_operator.reports import EndReport, ProgressReport


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """How pods that fetch get to the hub, where a job's own variables do not say it; empty: directly."""

    endpoint: str = ""
    """Address of a mirror."""
    proxy: str = ""
    """Address of the proxy for HTTPS."""
    no_proxy: str = ""
    """Hosts that are asked directly, comma-separated."""
    ca_config_map: str = ""
    """ConfigMap of the job's namespace whose key ca.crt holds the certificates to trust."""


@dataclass(frozen=True, kw_only=True)
class NetworkAccess:
    """Whom the pods of jobs may talk to beside each other: what their NetworkPolicies say. Namespaces."""

    operator_namespace: str
    """That of the operator, which asks rank 0 how far it is."""
    dns_namespace: str = "kube-system"
    """That of the cluster's DNS."""
    prometheus_namespace: str = ""
    """That of a Prometheus that reads rank 0's metrics; empty: none may."""
    name_servers: tuple[str, ...] = ()
    """Addresses that pods ask for names: a cache on the node may answer there, in place of the DNS' pods."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator itself was told at its start."""

    trainer_image: str
    """Image of a job that names none."""
    hub: HubAccess = field(default_factory=HubAccess)
    network: NetworkAccess | None = None
    """None: jobs get no NetworkPolicies."""
    placement_grace: timedelta = timedelta(minutes=1)
    """How long a gang may hold nodes while some of its pods find none."""
    trainer_images: Mapping[str, str] = field(default_factory=dict)
    """Images by build of the trainer; empty: `trainer_image` is for all GPUs."""
    pools: tuple[Pool, ...] = ()
    """Pools of nodes that an autoscaler makes larger when pods wait."""
    pool_wait: timedelta = timedelta(minutes=15)
    """How long a gang may wait for a pool to grow."""
    backend: str = PYTORCHJOB.kind
    """Kind of the gangs of new jobs."""
    network_profiles: tuple[NetworkProfile, ...] = ()
    """How pods on GPUs of a product reach each other."""
    gang_scheduling: bool = False
    """Whether the cluster's own scheduler places gangs whole (PodGroups)."""


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What Kueue's Workload says of a gang that is suspended."""

    reason: str
    """Kueue's own word, such as Pending or Preempted."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One job and everything around it."""

    now: datetime
    settings: Settings
    raw: Object
    """The FineTuneJob as the API server holds it."""
    job: FineTuneJob | None
    """The same, typed; None if it is refused, and never was accepted."""
    problems: tuple[str, ...] = ()
    """Why it is refused, or would be if it had not begun: one "path: message" a problem."""
    claim: Object | None = None
    """The claim of the volume, whoever made it."""
    config_map: Object | None = None
    prepare: Object | None = None
    prepared_by: Key | None = None
    """Another job that has put on the volume what this one needs, not long ago."""
    gangs: tuple[Object, ...] = ()
    """Gangs of the job, every attempt."""
    needs: tuple[Object, ...] = ()
    """What the gangs need: TrainingRuntimes of TrainJobs, and PodGroups."""
    pods: tuple[PodView, ...] = ()
    """Pods of prepare and of every attempt."""
    farewell: PodView | None = None
    """The rank 0 pod that was deleted last, as it was at its end."""
    nodes: tuple[Node, ...] | None = None
    """The cluster's nodes; read only while a place is sought."""
    nodes_at: float = 0.0
    """When they were read, in seconds of the monotonic clock."""
    waited: timedelta | None = None
    """How long the gang has waited for nodes in a way that has to end; None if it does not."""
    queues: tuple[str, ...] | None = None
    """LocalQueues of the namespace, asked for before pods run in a job that names one; None without Kueue."""
    admission: Admission | None = None
    """What Kueue says of a gang that is suspended; None if it has said nothing."""
    refusal: Refusal | None = None
    """The last write of this job that was refused, until one succeeds."""
    progress: ProgressReport | None = None
    """What rank 0 answered last."""
    silence: timedelta | None = None
    """How long rank 0 has had nothing new to say; None where that is not known."""
    poll_in: float = 5.0
    """Seconds until rank 0 is asked again."""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.raw["metadata"]["namespace"], name_of(self.raw))

    @property
    def uid(self) -> str:
        """Tells this job from an earlier one of its name."""
        return uid_of(self.raw)

    @property
    def readable(self) -> FineTuneJob:
        """The job, where it is known that it can be read."""
        assert self.job is not None
        return self.job

    @property
    def spec(self) -> FineTuneJobSpec:
        """The spec of a job that can be read."""
        return self.readable.spec

    @property
    def status(self) -> dict[str, Any]:
        """The status as it stands; empty before the first pass."""
        return self.raw.get("status") or {}

    @property
    def pool(self) -> str:
        """Name of the pool of nodes that grows for the job; empty if none does."""
        return str((self.status.get("placement") or {}).get("pool") or "")

    @property
    def is_deleted(self) -> bool:
        """Whether the job is being deleted."""
        return is_terminating(self.raw)

    @property
    def attempt(self) -> int:
        """The newest attempt there ever was: what status says, and never less than what exists."""
        return max([int(self.status.get("attempt") or 0), *(attempt_of(gang) for gang in self.gangs)])

    @property
    def gang(self) -> Object | None:
        """The gang of the newest attempt."""
        return next((gang for gang in self.gangs if attempt_of(gang) == self.attempt), None)

    @property
    def gang_pods(self) -> tuple[PodView, ...]:
        """Pods of the newest attempt."""
        return tuple(pod for pod in self.pods if pod.attempt is not None and pod.attempt == self.attempt)

    @property
    def last_words(self) -> EndReport | None:
        """What rank 0 of the newest attempt said when it ended; None if it has not, or was not heard."""
        rank_zero = next((pod for pod in self.gang_pods if pod.is_rank_zero), self.farewell)
        return rank_zero.report if rank_zero is not None and rank_zero.attempt == self.attempt else None

    @property
    def prepare_pods(self) -> tuple[PodView, ...]:
        """Pods of the prepare Job."""
        return tuple(pod for pod in self.pods if pod.attempt is None)


def attempt_of(gang: Object) -> int:
    """Return which attempt a gang is."""
    text = labels_of(gang).get(names.LABEL_ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


@dataclass(frozen=True, kw_only=True)
class Create:
    """Create this object, unless one of its name exists."""

    kind: Kind
    body: Object

    @classmethod
    def of(cls, body: Object) -> "Create":
        """Create an object that names its kind."""
        return cls(kind=kind_of(body), body=body)


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete this very object (its uid, not just its name)."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    grace: int | None = None
    """Seconds that a pod gets to end; None: what its spec says."""

    @classmethod
    def of(cls, kind: Kind, obj: Object) -> "Delete":
        """Delete an object that was read."""
        metadata = obj["metadata"]
        return cls(kind=kind, namespace=metadata["namespace"], name=metadata["name"], uid=uid_of(obj))


Action = Create | Delete


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """An Event to post about the job."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do about one job now, and what to say of it."""

    status: dict[str, Any]
    """The whole status that the job shall have."""
    actions: tuple[Action, ...] = ()
    """Writes, in this order; they follow the status."""
    announcements: tuple[Announcement, ...] = ()
    """Events; posted once the status is written."""
    look_again: float | None = None
    """Seconds after which time alone may change the plan; None if only a change can."""
