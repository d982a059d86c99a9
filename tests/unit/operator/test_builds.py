"""A card gets the build of the trainer that has kernels for it, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from harness.cluster import REPOSITORY
from harness.operator_view import condition, observed
from phitune_operator.builds import BUILDS, Build, build_for, read_builds
from phitune_operator.cluster_settings import SettingsError, network_profiles, pools, trainer_images
from phitune_operator.gpu_labels import DRIVERS, MAJOR, MINOR
from phitune_operator.nodes import Node
from phitune_operator.observed import Observed
from phitune_operator.plan import plan
from phitune_trainer.memory import GPUS

BY_NAME = {build.name: build for build in BUILDS}
CAPABILITIES = [(major, minor) for major in range(3, 14) for minor in range(10)]
IMAGES = {build.name: f"trainer-{build.name}:1" for build in BUILDS}


def test_page_on_placement_has_the_matrix() -> None:
    page = (REPOSITORY / "docs/placement.md").read_text(encoding="utf-8")
    for build in BUILDS:
        assert f"{build.torch}, {build.cuda} | {build.driver} or newer" in page.split(f"| {build.name} |")[1]


def kernels_of_installed_torch() -> set[tuple[int, int]]:
    names = torch._C._cuda_getArchFlags() or ""
    return {(int(text[:-1]), int(text[-1])) for text in re.findall(r"sm_(\d+)", names)}


def test_matrix_is_the_file_that_docker_and_operator_share() -> None:
    assert read_builds((REPOSITORY / "docker/matrix.toml").read_text(encoding="utf-8")) == BUILDS
    assert list(BY_NAME) == ["flash", "plain", "v100"]


def test_architectures_are_those_that_the_packaged_torch_was_compiled_for() -> None:
    installed = str(torch.__version__).partition("+")[0]
    same = [build for build in BUILDS if build.torch == installed]
    assert [build.name for build in same] == ["flash", "plain"]
    for build in same:
        assert set(build.architectures) <= kernels_of_installed_torch()
        assert build.cuda == torch.version.cuda


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_versions_are_those_of_the_lock(build: Build) -> None:
    lock = REPOSITORY / "requirements" / build.lock
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\\n]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    assert (pinned["torch"], pinned["deepspeed"]) == (build.torch, build.deepspeed)


@pytest.mark.parametrize(
    ("capability", "is_bf16", "name"),
    [
        ((7, 0), False, "v100"),
        ((7, 5), False, "plain"),
        ((8, 0), True, "flash"),
        ((8, 0), False, "plain"),
        ((8, 9), True, "flash"),
        ((9, 0), True, "flash"),
        ((10, 3), True, "flash"),
        ((12, 1), True, "flash"),
        ((6, 1), False, None),
        ((11, 0), True, None),
        ((13, 0), True, None),
    ],
)
def test_build_of_a_card(capability: tuple[int, int], is_bf16: bool, name: str | None) -> None:
    found = build_for(capability, driver=None, is_bf16=is_bf16)
    assert (found.name if found else None) == name


def test_no_card_is_ever_sent_a_build_without_kernels_for_it_or_too_new_for_its_driver() -> None:
    sets = [BUILDS, *([build for build in BUILDS if build.name != name] for name in BY_NAME)]
    chosen = 0
    for capability, driver, is_bf16, builds in product(
        CAPABILITIES, (None, 470, 535, 580), (True, False), sets
    ):
        found = build_for(capability, driver=driver, is_bf16=is_bf16, builds=builds)
        if found is not None:
            chosen += 1
            assert found in builds
            assert any(
                major == capability[0] and minor <= capability[1] for major, minor in found.architectures
            )
            assert driver is None or driver >= found.driver
    assert chosen > 100


def on(gpu: str, spec: dict[str, Any] | None = None, driver: str = "580", **images: str) -> Observed:
    """A job of one GPU on a node with that card, and an operator that has these images."""
    capability = GPUS[gpu].compute_capability
    assert capability is not None
    labels = {
        "nvidia.com/gpu.product": gpu,
        MAJOR: str(capability[0]),
        MINOR: str(capability[1]),
        DRIVERS[0]: driver,
    }
    resources = {"nodes": 1, "gpusPerNode": 1, "cpu": None, "memory": None}
    seen = observed(
        {"resources": resources, **(spec or {})}, nodes=(Node(name="n", labels=labels, num_gpus=8),)
    )
    return replace(seen, settings=replace(seen.settings, trainer_images=images or IMAGES))


@pytest.mark.parametrize("gpu", GPUS)
def test_job_on_every_known_gpu_gets_its_image_precision_and_attention(gpu: str) -> None:
    placement = plan(on(gpu)).status["placement"]
    capability = GPUS[gpu].compute_capability
    assert capability is not None
    assert BY_NAME[placement["build"]].covers(capability)
    assert placement["image"] == IMAGES[placement["build"]]
    expected = ("flash", "bf16", "flash") if capability >= (8, 0) else (None, "fp16", "sdpa")
    assert (placement["precision"], placement["attention"]) == expected[1:]
    assert expected[0] in (None, placement["build"])
    assert f"image of build {placement['build']}" in placement["reason"]


def test_without_the_flash_image_attention_follows_what_there_is() -> None:
    placement = plan(on("A100-80GB", plain="plain:1")).status["placement"]
    assert (placement["image"], placement["attention"], placement["precision"]) == ("plain:1", "sdpa", "bf16")
    asked = {"training": {"attention": "flash"}}
    accepted = condition(plan(on("A100-80GB", asked, plain="plain:1")).status, "Accepted")
    assert accepted["reason"] == "UnsuitableGPU"
    assert "build plain" in accepted["message"]


@pytest.mark.parametrize(
    ("gpu", "driver", "images", "said"),
    [
        ("V100-32GB", "580", {"flash": "a", "plain": "b"}, "V100-32GB has compute capability 7.0"),
        ("A100-80GB", "535", IMAGES, "driver 535, and no image of the trainer is for that"),
    ],
)
def test_card_that_no_image_is_for_is_refused_with_what_there_is(
    gpu: str, driver: str, images: dict[str, str], said: str
) -> None:
    todo = plan(on(gpu, driver=driver, **images))
    accepted = condition(todo.status, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "NoImageForGPU")
    assert said in accepted["message"]
    assert "driver 580 or newer" in accepted["message"]
    assert todo.actions == ()


def test_image_of_the_job_is_not_doubted_and_one_image_for_all_is_taken_everywhere() -> None:
    own = plan(on("V100-32GB", {"image": "own:1"}, flash="a")).status["placement"]
    assert (own["image"], own.get("build")) == ("own:1", None)
    seen = on("V100-32GB")
    for_all = plan(replace(seen, settings=replace(seen.settings, trainer_images={}))).status["placement"]
    assert for_all["image"] == "trainer:1"


def test_restart_keeps_the_build_whatever_images_there_are_then() -> None:
    seen = on("A100-80GB")
    first = plan(seen).status
    restarted = {**seen.raw, "status": {**first, "attempt": 1}}
    later = replace(seen, raw=restarted, settings=replace(seen.settings, trainer_images={}))
    assert plan(later).status["placement"] == first["placement"]


GPUS_OF_NO_PRODUCT = json.dumps(
    [
        {
            "name": "a",
            "product": "",
            "gpusPerNode": 8,
            "cpu": 96,
            "memory": "1Ti",
            "maxNodes": 1,
            "labels": {"pool": "a"},
        }
    ]
)


@pytest.mark.parametrize(
    ("read", "name", "value", "said"),
    [
        (trainer_images, "PHITUNE_TRAINER_IMAGES", '{"fast": "a"}', "there is no build fast"),
        (trainer_images, "PHITUNE_TRAINER_IMAGES", "[]", "PHITUNE_TRAINER_IMAGES"),
        (pools, "PHITUNE_POOLS", '[{"name": "a"}]', r"\[0\].product"),
        (pools, "PHITUNE_POOLS", GPUS_OF_NO_PRODUCT, "product names the GPUs of a pool"),
        (network_profiles, "PHITUNE_NETWORK_PROFILES", '[{"product": "A", "env": {"1": "b"}}]', "env"),
    ],
)
def test_setting_that_cannot_be_used_ends_the_start_with_its_name(
    read: Callable[[dict[str, str]], Any], name: str, value: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        read({name: value})
    assert not read({})
