"""Every fault that the operator is tried with, in the order of the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable

from chaos import cluster_faults, operator_faults, strikes
from chaos.operator_faults import HOUR, answered, clock_jumps, is_any, is_list_or_watch, is_write
from harness.oracle import Verdict
from harness.trial import Trial

Strike = Callable[[Trial], Verdict | list[Verdict]]

OF_ONE_JOB: dict[str, Strike] = {
    "a worker killed": strikes.worker_killed,
    "the master killed": strikes.master_killed,
    "every pod killed": strikes.every_pod_killed,
    "a pod OOMKilled": strikes.out_of_memory,
    "a pod evicted": strikes.evicted,
    "a pod deleted by hand": strikes.pod_deleted,
    "a pod edited by hand": strikes.pod_edited,
    "a PyTorchJob deleted by hand": strikes.gang_deleted,
    "a PyTorchJob edited by hand": strikes.gang_edited,
    "a ConfigMap deleted by hand": strikes.config_deleted,
    "a ConfigMap edited by hand": strikes.config_edited,
    "a Service deleted by hand": strikes.service_deleted,
    "a Service edited by hand": strikes.service_edited,
    "the claim deleted while running": strikes.claim_deleted,
    "a job deleted and created again at once": strikes.job_made_anew,
    "quota exceeded": strikes.quota_used_up,
    "a webhook that refuses": strikes.webhook_refuses,
    "a webhook that hangs": strikes.webhook_hangs,
    "a progress endpoint that hangs": strikes.progress_hangs,
    "a progress endpoint that lies": strikes.progress_lies,
    "a progress endpoint that sends 100 MB": strikes.progress_floods,
    "10,000 Events": strikes.many_events,
    "two jobs after one claim": strikes.two_jobs_on_one_claim,
    "the volume full": strikes.volume_full,
    "the volume read-only": strikes.volume_read_only,
    "a malformed termination message": strikes.last_words_garbled,
}
"""Faults of one job each: they run side by side, and do not disturb each other."""

QUICK = frozenset(
    {
        "a worker killed",
        "the master killed",
        "every pod killed",
        "a pod OOMKilled",
        "a pod evicted",
        "a pod deleted by hand",
        "a PyTorchJob deleted by hand",
        "a job deleted and created again at once",
        "quota exceeded",
        "a progress endpoint that lies",
    }
)
"""The ten that `make test` tries, too."""

OF_THE_OPERATOR: dict[str, Strike] = {
    "operator killed before each of its writes": operator_faults.killed_at_each_write("before"),
    "operator killed after each of its writes": operator_faults.killed_at_each_write("after"),
    "one of two operators killed; the other within 20 s": operator_faults.leader_killed,
    "409 at random": answered((409, "Conflict"), only=is_write),
    "410 at random": answered((410, "Expired"), only=is_list_or_watch),
    "429 at random": answered((429, "TooManyRequests"), only=is_any),
    "500 at random": answered((500, "InternalError"), only=is_any),
    "slow answers at random": answered(only=is_any),
    "watches that fall silent, connections open": operator_faults.watches_fall_silent,
    "the clock an hour ahead": clock_jumps(HOUR),
    "the clock an hour behind": clock_jumps(-HOUR),
}
"""Faults of the operator and of its way to the API server, of which each try has its own."""

OF_THE_CLUSTER: dict[str, Strike] = {
    "API server killed for 60 s": cluster_faults.two_jobs(cluster_faults.api_server_killed),
    "etcd stopped for 20 s": cluster_faults.two_jobs(cluster_faults.etcd_stopped),
    "etcd slowed": cluster_faults.two_jobs(cluster_faults.etcd_slow),
    "kubelets restarted": cluster_faults.two_jobs(cluster_faults.kubelets_restarted),
    "a node lost: cut off, then its processes killed": cluster_faults.two_jobs(cluster_faults.node_lost),
    "a node lost, and back while the new gang trains": cluster_faults.two_jobs(
        cluster_faults.node_lost_and_back
    ),
    "a node drained": cluster_faults.two_jobs(cluster_faults.node_drained),
    "training-operator restarted": cluster_faults.two_jobs(cluster_faults.training_operator_restarted),
    "training-operator absent": cluster_faults.two_jobs(cluster_faults.training_operator_absent),
    "the PyTorchJob CRD missing for a while": cluster_faults.two_jobs(cluster_faults.gang_kind_missing),
    "the FineTuneJob CRD deleted and put back": cluster_faults.job_kind_missing,
    "the namespace deleted": cluster_faults.namespace_deleted,
}
"""Faults of what all jobs share: one after the other."""

FAULTS = (*OF_THE_OPERATOR, *OF_THE_CLUSTER, *OF_ONE_JOB)
"""In the order of the table."""
