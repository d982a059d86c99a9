"""Which images the chart's values name: the operator's, and the trainer's for each kind of node."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml

from harness.chart import pod_spec, rendered, told
from harness.cluster import REPOSITORY, Cluster, CommandError
from harness.documented import commands_in_blocks, page
from imagebuild.recipes import release, releases
from phitune_operator.builds import BUILDS
from phitune_operator.cluster_settings import trainer_images

VERSION = yaml.safe_load((REPOSITORY / "charts/phitune/Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
PLAIN = f"localhost/phitune/trainer:{VERSION}-plain"
OURS = {build.name: f"localhost/phitune/trainer:{VERSION}-{build.name}" for build in BUILDS}
OF_ONES_OWN = {"flash": "f:1", "plain": "p:1", "v100": "v:1"}


def of_a_release(registry: str, tag: str) -> set[str]:
    """The images that are there after `make images`."""
    return {f"{registry}/{release(name, 'base').reference(tag)}" for name in releases()}


def named(cluster: Cluster, *settings: str) -> set[str]:
    """All images that these values name."""
    objects = rendered(cluster, *settings)
    env = told(objects)
    ours = {container["image"] for container in pod_spec(objects)["containers"]}
    return ours | {env["PHITUNE_TRAINER_IMAGE"], *trainer_images(env).values()}


@pytest.mark.parametrize(
    ("settings", "on_cpu", "images"),
    [
        pytest.param([], PLAIN, OURS, id="the release's"),
        pytest.param(['trainer.image="all:1"'], "all:1", {}, id="one for all"),
        pytest.param(['trainer.images.v100="v:1"'], PLAIN, OURS | {"v100": "v:1"}, id="another for V100"),
        pytest.param(['trainer.images.plain="p:1"'], "p:1", OURS | {"plain": "p:1"}, id="another for plain"),
        pytest.param(
            ['trainer.image="all:1"', 'trainer.images.flash="f:1"'],
            "all:1",
            {"flash": "f:1", "plain": "all:1", "v100": "all:1"},
            id="one for the others",
        ),
        pytest.param(
            ['image.repository="mine"', f"trainer.images={json.dumps(OF_ONES_OWN)}"],
            "p:1",
            OF_ONES_OWN,
            id="all of one's own",
        ),
        pytest.param(
            ['image.repository="mine"', 'trainer.images={"flash":"f:1","plain":"p:1"}'],
            "p:1",
            {"flash": "f:1", "plain": "p:1"},
            id="some, and no telling where the others are",
        ),
    ],
)
def test_images_by_build_reach_the_operator(
    cluster: Cluster, settings: list[str], on_cpu: str, images: dict[str, str]
) -> None:
    env = told(rendered(cluster, *settings))
    assert env["PHITUNE_TRAINER_IMAGE"] == on_cpu
    assert trainer_images(env) == images


def test_without_values_the_images_are_those_of_a_release(cluster: Cluster) -> None:
    assert named(cluster) == of_a_release("localhost", VERSION)


@pytest.mark.parametrize("name", ["charts/phitune/README.md", "docs/quickstart.md", "docs/images.md"])
def test_a_documented_installation_names_the_images_that_are_there(cluster: Cluster, name: str) -> None:
    (words,) = [words for words in commands_in_blocks(page(name)) if words[:2] == ["helm", "upgrade"]]
    pairs = [pair.split("=") for option, pair in itertools.pairwise(words) if option == "--set"]
    values = dict(pairs)
    registry = values["image.repository"].removesuffix("/phitune/operator")
    settings = [f"{name}={json.dumps(value)}" for name, value in pairs]
    assert named(cluster, *settings) == of_a_release(registry, values["image.tag"])


def test_an_operator_of_another_name_does_not_tell_where_the_trainer_is(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match=r"trainer\.image: image\.repository is r/mine"):
        rendered(cluster, 'image.repository="r/mine"')
    assert named(cluster, 'image.repository="r/mine"', 'trainer.image="r/all:1"') >= {"r/all:1"}
