"""Which kinds of gang the cluster has: asked at the start, and now and then, for one may come later."""

from phitune_operator.backends import AUTO, chosen
from phitune_operator.kinds import GANGS, OPTIONAL, POD_GROUP, PYTORCHJOB, WATCHED, Kind
from phitune_operator.kube import ApiError, Kube


class Installed:
    """What the cluster had at the start: those kinds are watched."""

    def __init__(self, kube: Kube, wish: str = AUTO, *, gang_scheduling: bool = False) -> None:
        self._kube = kube
        self._wish = wish
        # Without that wish there is no right to look at PodGroups, whatever the cluster has.
        self._looked_for = tuple(kind for kind in OPTIONAL if gang_scheduling or kind != POD_GROUP)
        self._present = self._looked_for
        self.default = PYTORCHJOB.kind
        """Name of the kind that the gangs of new jobs get."""
        self.unwatched: tuple[Kind, ...] = ()
        """Kinds that have come since, and PodGroups if they have gone: gangs can do without."""

    @property
    def watched(self) -> tuple[Kind, ...]:
        """Of the kinds that are watched, those that the cluster has."""
        return tuple(kind for kind in WATCHED if kind not in OPTIONAL or kind in self._present)

    @property
    def gang_scheduling(self) -> bool:
        """Whether gangs get PodGroups: that was asked for, and the cluster has them."""
        return POD_GROUP in self.watched

    async def find(self) -> None:
        """See what there is. Raises ApiError, also if the kind that new jobs are to get is not there."""
        self._present = await self._there()
        default = chosen(self._wish, self._present)
        if default is None:
            wanted = f"{', '.join(map(str, GANGS[:-1]))} or {GANGS[-1]}" if self._wish == AUTO else self._wish
            raise ApiError(404, "NotFound", f"the cluster has no {wanted}")
        self.default = default.kind

    async def look_for_new(self) -> None:
        """Take note of what has changed since the start. Raises ApiError."""
        there = await self._there()
        gone = [kind for kind in self._present if kind == POD_GROUP and kind not in there]
        self.unwatched = (*(kind for kind in there if kind not in self._present), *gone)

    async def _there(self) -> tuple[Kind, ...]:
        return tuple([kind for kind in self._looked_for if await self._kube.serves(kind)])
