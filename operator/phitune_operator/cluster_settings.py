"""What an administrator tells the operator about the cluster: images, pools that grow, networks.

The chart's values become variables of the operator's environment, and are read here, by the operator at its
start and by `phitune render --cluster`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from phitune_operator.builds import BUILDS
from phitune_operator.fields import ENV_NAME, Bytes, Cpu, Group, LabelKey, Labels, LabelValue, ObjectName
from phitune_operator.gpu_names import is_same
from phitune_trainer.problems import problems_of

ENV_IMAGES: Final = "PHITUNE_TRAINER_IMAGES"
ENV_POOLS: Final = "PHITUNE_POOLS"
ENV_PROFILES: Final = "PHITUNE_NETWORK_PROFILES"
ENV_GANG_SCHEDULING: Final = "PHITUNE_GANG_SCHEDULING"


class Pool(Group):
    """Nodes that an autoscaler adds when pods wait for them."""

    name: ObjectName
    """What messages call it."""
    product: LabelValue
    """GPU product that its nodes have; empty where they have none."""
    gpus_per_node: int = Field(ge=0)
    cpu: Cpu
    """CPUs of a node that pods can ask for."""
    memory: Bytes
    """Memory of a node that pods can ask for."""
    max_nodes: int = Field(ge=1)
    """Nodes that it grows to."""
    labels: Labels = Field(min_length=1)
    """Labels that its nodes have from their first moment, by which the autoscaler knows the pool."""

    @model_validator(mode="after")
    def _has_gpus_with_their_product(self) -> Self:
        if bool(self.product) != bool(self.gpus_per_node):
            raise ValueError("product names the GPUs of a pool, and is empty where gpusPerNode is 0")
        return self


class NetworkProfile(Group):
    """How pods on GPUs of one product reach each other."""

    product: LabelValue
    """GPU product; other names of the same GPU are meant too."""
    env: dict[Annotated[str, Field(pattern=ENV_NAME)], str] = Field(default_factory=dict, max_length=64)
    """Variables of the training pods, such as NCCL's; a job's own spec.env goes before them."""
    resources: dict[LabelKey, int] = Field(default_factory=dict, max_length=16)
    """Resources that each training pod asks for beside its GPUs, such as rdma/hca."""


class SettingsError(Exception):
    """A variable of the operator's environment cannot be used; the message names it and says why."""


_IMAGES: Final = TypeAdapter(dict[str, str])
_POOLS: Final = TypeAdapter(list[Pool])
_PROFILES: Final = TypeAdapter(list[NetworkProfile])
T = TypeVar("T")


def trainer_images(environment: Mapping[str, str]) -> dict[str, str]:
    """Images by build, those that there are; empty where one image is for all. Raises SettingsError."""
    images = _read(_IMAGES, environment, ENV_IMAGES, "{}")
    if unknown := sorted(images.keys() - {build.name for build in BUILDS}):
        known = ", ".join(build.name for build in BUILDS)
        raise SettingsError(f"{ENV_IMAGES}: there is no build {unknown[0]}; there are {known}")
    return {build: image for build, image in images.items() if image}


def pools(environment: Mapping[str, str]) -> tuple[Pool, ...]:
    """The pools that grow. Raises SettingsError."""
    found = _read(_POOLS, environment, ENV_POOLS, "[]")
    return tuple(found)


def network_profiles(environment: Mapping[str, str]) -> tuple[NetworkProfile, ...]:
    """The network profiles. Raises SettingsError."""
    found = _read(_PROFILES, environment, ENV_PROFILES, "[]")
    return tuple(found)


def wants_gang_scheduling(environment: Mapping[str, str]) -> bool:
    """Whether the cluster's own scheduler is to place gangs, if the cluster has PodGroups."""
    return environment.get(ENV_GANG_SCHEDULING) == "true"


def profile_for(product: str, profiles: Sequence[NetworkProfile]) -> NetworkProfile | None:
    """The profile of a product: of its very name, or else of the same GPU; None if there is none."""
    exact = (profile for profile in profiles if profile.product == product)
    same = (profile for profile in profiles if product and is_same(profile.product, product))
    return next(exact, None) or next(same, None)


def _read(adapter: TypeAdapter[T], environment: Mapping[str, str], name: str, default: str) -> T:
    try:
        return adapter.validate_json(environment.get(name) or default)
    except ValidationError as error:
        raise SettingsError(f"{name}: {'; '.join(problems_of(error))}") from error
