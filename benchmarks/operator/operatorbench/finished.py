"""Thousands of jobs that have ended, without running each: copies of one that did, with all that it left.

That one goes its whole way on the claim that is prepared: its status is the operator's own, its children are
those that the operator and the training-operator made for it. A copy differs in names and uids alone. It is
made while nothing acts on objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from operatorbench.api import Object, each
from operatorbench.jobs import CONFIG_MAPS, GANGS, JOBS, PODS, copied, job
from operatorbench.scene import Scene
from phitune_operator import names

PATTERN = "the-pattern"
ACTORS = ("kwok", "training-operator", "kube-scheduler", "kube-controller-manager")


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and its children, each with the path of its kind; owners come before owned."""

    job: Object
    children: Sequence[tuple[str, Object]]

    @classmethod
    async def of(cls, here: Scene, name: str) -> "Ended":
        """As the API server has it."""
        query = f"?labelSelector={names.LABEL_JOB}={name}"
        found = [
            (path, item)
            for path in (CONFIG_MAPS, GANGS, PODS)
            for item in (await here.api.get(f"{path}{query}"))["items"]
        ]
        return cls(await here.api.get(f"{JOBS}/{name}"), found)

    async def copy(self, here: Scene, name: str) -> None:
        """Make the same job under another name."""
        old = str(self.job["metadata"]["name"])
        replacements = {old: name}
        await _create(here, JOBS, self.job, replacements)
        for path, child in self.children:
            await _create(here, path, child, replacements)


async def _create(here: Scene, path: str, obj: Object, replacements: dict[str, str]) -> None:
    """Create a copy and write its status; from then on its uid stands for the original's."""
    copy = copied(obj, replacements)
    made = await here.api.create(path, copy)
    replacements[obj["metadata"]["uid"]] = made["metadata"]["uid"]
    if "status" in obj:
        await here.api.merge(
            f"{path}/{made['metadata']['name']}/status", {"status": copied(obj, replacements)["status"]}
        )


async def fill(here: Scene, count: int) -> None:
    """Make so many ended jobs, and their pattern. Operator and controllers stand still from then on."""
    await here.apply([job(PATTERN, ends_soon=True)])
    await here.wait_for_phase("Succeeded", [PATTERN], seconds=120)
    await here.stop_operator()
    for name in ACTORS:
        here.plane.stop(name)
    ended = await Ended.of(here, PATTERN)
    here.work.say(f"making {count} jobs that have ended, each with {len(ended.children)} children")
    num_made = 0

    async def add(number: int) -> None:
        nonlocal num_made
        await ended.copy(here, f"old-{number:05}")
        num_made += 1
        if num_made % 2000 == 0:
            here.work.say(f"{num_made} made")

    await each(range(count), add)


def start_actors(here: Scene) -> None:
    """Start what `fill` has stopped, but for the operator."""
    for name in reversed(ACTORS):
        here.plane.start(name)
