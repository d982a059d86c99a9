"""`python -m phitune_operator.main`: the process of the operator's image.

One process serves the cluster, the one that holds the Lease; others wait to take its place. It ends on
SIGTERM or SIGINT; what it was doing is picked up by the next.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, cast

import kopf

from phitune_operator import handlers, health, logs, names
from phitune_operator.backends import AUTO
from phitune_operator.clock import utc_now
from phitune_operator.cluster_settings import (
    SettingsError,
    network_profiles,
    pools,
    trainer_images,
    wants_gang_scheduling,
)
from phitune_operator.installed import Installed
from phitune_operator.kinds import GANGS
from phitune_operator.kube import ApiError, Kube
from phitune_operator.leader import Leadership, LeadershipLostError
from phitune_operator.logs import LOGGER
from phitune_operator.metrics import Metrics
from phitune_operator.observe import Observer
from phitune_operator.observed import HubAccess, NetworkAccess, Settings
from phitune_operator.progress import ProgressPoller, open_session
from phitune_operator.queue import WorkQueue, work
from phitune_operator.reconcile import Reconciler
from phitune_operator.resync import Resync
from phitune_operator.store import Store

NUM_WORKERS = 16
"""Jobs that are looked at concurrently; most of a look is waiting for the API server or for rank 0."""
START_PAUSE = 5.0
"""Seconds between two tries to see the cluster at the start."""
RESOLVER: Final = Path("/etc/resolv.conf")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the environment holds the defaults."""
    parser = argparse.ArgumentParser(
        prog="phitune_operator", description="Runs FineTuneJobs on this cluster."
    )
    parser.add_argument(
        "--trainer-image",
        default=os.environ.get("PHITUNE_TRAINER_IMAGE", ""),
        help="image of the pods of a job that names none (PHITUNE_TRAINER_IMAGE)",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        dest="namespaces",
        metavar="NAMESPACE",
        help="serve this namespace only; repeatable (PHITUNE_NAMESPACES, comma-separated; default: all)",
    )
    parser.add_argument(
        "--log-level",
        default=os.environ.get("PHITUNE_LOG_LEVEL", "info"),
        choices=["debug", "info", "warning", "error"],
        help="least severe lines that are logged (PHITUNE_LOG_LEVEL; default: info)",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        default=health.PORT,
        help="port of /healthz, /readyz and /metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--lease",
        default=os.environ.get("PHITUNE_LEASE", ""),
        metavar="NAMESPACE/NAME",
        help="work only while holding this Lease, so that several operators may run (PHITUNE_LEASE; default: "
        "none, be the only one)",
    )
    parser.add_argument(
        "--placement-grace",
        type=float,
        default=os.environ.get("PHITUNE_PLACEMENT_GRACE", "60"),
        metavar="SECONDS",
        help="how long a gang may hold nodes while some of its pods find none (PHITUNE_PLACEMENT_GRACE; "
        "default: 60; longer where nodes are added on demand)",
    )
    parser.add_argument(
        "--pool-wait",
        type=float,
        default=os.environ.get("PHITUNE_POOL_WAIT", "900"),
        metavar="SECONDS",
        help="how long a gang may wait for a pool of nodes to grow (PHITUNE_POOL_WAIT; default: 900; "
        "PHITUNE_POOLS names the pools)",
    )
    parser.add_argument(
        "--backend",
        default=os.environ.get("PHITUNE_BACKEND", AUTO),
        choices=[AUTO, *(kind.kind.lower() for kind in GANGS)],
        help="kind of object that runs the gangs of new jobs (PHITUNE_BACKEND; default: the first that the "
        "cluster has)",
    )
    parser.add_argument(
        "--gang-scheduling",
        action="store_true",
        default=wants_gang_scheduling(os.environ),
        help="have the cluster's own scheduler place gangs, each whole or not at all, where the cluster has "
        "PodGroups (PHITUNE_GANG_SCHEDULING=true; the chart brings the policy that their pods need)",
    )
    options = parser.parse_args(argv)
    if options.lease and not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", options.lease):
        parser.error(f"--lease: must be NAMESPACE/NAME, got {options.lease}")
    if not options.trainer_image:
        parser.error("no trainer image: give --trainer-image or set PHITUNE_TRAINER_IMAGE")
    if options.namespaces is None:
        options.namespaces = [
            name for name in re.split(r"[,\s]+", os.environ.get("PHITUNE_NAMESPACES", "")) if name
        ]
    return options


def hub_access(environment: Mapping[str, str]) -> HubAccess:
    """How prepare pods get to the hub, as the chart's values say it."""
    told = {
        name: environment.get(f"PHITUNE_HUB_{name.upper()}", "")
        for name in ("endpoint", "proxy", "no_proxy", "ca_config_map")
    }
    return HubAccess(**told)


def network_access(environment: Mapping[str, str], resolver: str = "") -> NetworkAccess | None:
    """Whom the pods of jobs may talk to, as the chart's values say it; None: nothing is restricted.

    `resolver`: how a pod of the cluster asks for names, the text of its resolv.conf.
    """
    namespace = environment.get("PHITUNE_OPERATOR_NAMESPACE", "")
    if not namespace:
        return None
    return NetworkAccess(
        operator_namespace=namespace,
        dns_namespace=environment.get("PHITUNE_DNS_NAMESPACE") or "kube-system",
        prometheus_namespace=environment.get("PHITUNE_PROMETHEUS_NAMESPACE", ""),
        name_servers=tuple(_name_servers(resolver)),
    )


def _name_servers(resolver: str) -> Iterator[str]:
    for server in re.findall(r"^nameserver\s+([^\s%]+)", resolver, re.MULTILINE):
        with contextlib.suppress(ValueError):  # what is no address, resolvers pass over, too
            yield str(ip_address(server))


def resolver_of_pods() -> str:
    """The operator's resolv.conf, as the kubelet makes it for every pod; empty where there is none."""
    try:
        return RESOLVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def identity(environment: Mapping[str, str]) -> str:
    """Who this process is among those that want the Lease.

    A container that is started again in its pod is the same one, and goes on at once: the pod's name.
    """
    return environment.get("PHITUNE_POD") or f"{socket.gethostname()}-{os.getpid()}"


async def run(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    metrics = Metrics()
    probes = health.Health(metrics)
    async with contextlib.AsyncExitStack() as stack:
        server = await probes.serve(options.health_port)
        stack.push_async_callback(server.cleanup)
        kube = await Kube.connect(metrics)
        stack.push_async_callback(kube.close)
        session = await stack.enter_async_context(open_session())
        store, queue = Store(), WorkQueue()
        metrics.watch(store, queue)
        settings = Settings(
            trainer_image=options.trainer_image,
            hub=hub_access(os.environ),
            network=network_access(os.environ, resolver_of_pods()),
            placement_grace=timedelta(seconds=options.placement_grace),
            trainer_images=trainer_images(os.environ),
            pools=pools(os.environ),
            pool_wait=timedelta(seconds=options.pool_wait),
            network_profiles=network_profiles(os.environ),
        )
        installed = Installed(kube, options.backend, gang_scheduling=options.gang_scheduling)
        resync = Resync(kube, store, queue, options.namespaces, installed)
        if options.lease:
            namespace, _, name = options.lease.partition("/")
            leadership = Leadership(kube, namespace, name, identity(os.environ))
            if not await is_done_before_signal(leadership.acquire(probes.standby)):
                LOGGER.info("stopped while another one worked")
                return
            probes.leading()
            stack.push_async_callback(leadership.release)
            await stack.enter_async_context(leadership.kept())
        if not await is_done_before_signal(see_cluster(resync)):
            LOGGER.info("stopped before the cluster could be read")
            return
        settings = replace(settings, backend=installed.default, gang_scheduling=installed.gang_scheduling)
        if options.gang_scheduling and not installed.gang_scheduling:
            LOGGER.warning("the cluster does not serve PodGroups, so that its scheduler places no gang whole")
        observer = Observer(kube, store, ProgressPoller(session), settings)
        reconciler = Reconciler(kube, store, queue, observer, metrics, clock=utc_now)
        probes.ready(resync)
        LOGGER.info(
            "serving %s; %d job(s)", ", ".join(options.namespaces) or "all namespaces", len(store.jobs())
        )
        async with asyncio.TaskGroup() as tasks:
            mine = [tasks.create_task(work(queue, reconciler.look)) for _ in range(NUM_WORKERS)]
            mine.append(tasks.create_task(resync.run()))
            await kopf.operator(
                registry=handlers.registry(store, queue, metrics, installed.watched),
                settings=handlers.settings(),
                standalone=True,
                # Only peering uses it; without it kopf asks for the user's name, and a pod's user has none.
                identity=cast(Any, names.MANAGER),
                clusterwide=not options.namespaces,
                namespaces=options.namespaces,
            )
            for task in mine:
                task.cancel()
    LOGGER.info("stopped")


async def is_done_before_signal(work_to_do: Coroutine[Any, Any, None]) -> bool:
    """Do it, unless SIGTERM or SIGINT comes first: then give it up at once. Later, kopf heeds them."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work_to_do)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        task.cancel()
    if task.cancelled():
        return False
    task.result()
    return True


async def see_cluster(resync: Resync) -> None:
    """Fill the store, however long the API server or a CRD makes us wait."""
    while True:
        try:
            await resync.fill()
        except ApiError as error:
            hint = (
                "; are the CRDs of Phitune and of the training-operator (or JobSet, or Trainer) installed?"
                if error.not_found
                else ""
            )
            LOGGER.warning("cannot read the cluster: %s%s; trying again in %.0f s", error, hint, START_PAUSE)
            await asyncio.sleep(START_PAUSE)
        else:
            return


def main() -> None:
    """Run the operator as the command line and the environment say."""
    options = parse_arguments()
    logs.set_up(options.log_level)
    try:
        asyncio.run(run(options))
    except* SettingsError as wrong:
        LOGGER.error("%s", wrong.exceptions[0])
        sys.exit(2)
    except* LeadershipLostError as lost:
        LOGGER.error("%s; ending, so that only one works", lost.exceptions[0])
        sys.exit(1)


if __name__ == "__main__":
    main()
