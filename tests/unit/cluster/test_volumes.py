"""Folders and PersistentVolumes follow the claims."""

from pathlib import Path
from typing import Any

import pytest

from localkube import volumes
from localkube.api import ApiError
from localkube.volumes import SHARED, SINGLE, Provisioner, RefusedError


def claim(
    storage_class: str = SHARED,
    *,
    modes: tuple[str, ...] = ("ReadWriteMany",),
    annotations: dict[str, str] | None = None,
    volume: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": "data", "uid": "1-2", "annotations": annotations or {}},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": list(modes),
            "resources": {"requests": {"storage": "5Gi"}},
            **({"volumeName": volume} if volume else {}),
            **spec,
        },
    }


SELECTED = {volumes.SELECTED_NODE: "node-2"}


class FakeApi:
    """Remembers what it was asked to make and to delete."""

    def __init__(self, claims: list[dict[str, Any]], present: list[dict[str, Any]] | None = None) -> None:
        self.lists = {volumes.CLAIMS: claims, volumes.VOLUMES: present or []}
        self.created: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[str] = []
        self.conflicts = False

    def items(self, path: str) -> list[dict[str, Any]]:
        return self.lists[path]

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.conflicts:
            raise ApiError(409, "exists")
        self.created.append((path, body))
        return body

    def delete(self, path: str) -> None:
        self.deleted.append(path)


@pytest.mark.parametrize(
    ("one", "is_wanted"),
    [
        pytest.param(claim(), True, id="shared, at once"),
        pytest.param(claim(volume="pvc-1"), False, id="has its volume"),
        pytest.param(claim("other"), False, id="somebody else's class"),
        pytest.param(claim(SINGLE), False, id="single, its pod is not scheduled yet"),
        pytest.param(claim(SINGLE, annotations=SELECTED), True, id="single, its pod is scheduled"),
    ],
)
def test_a_claim_is_served_when_its_class_says(one, is_wanted):
    assert volumes.is_wanted(one) is is_wanted


def test_a_claim_that_is_being_deleted_is_left_alone():
    one = claim()
    one["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert not volumes.is_wanted(one)


def test_a_volume_is_bound_to_its_claim_and_shared_by_all_nodes():
    spec = volumes.volume_for(claim(modes=("ReadWriteMany", "ReadOnlyMany")), Path("/volumes/x"))["spec"]
    assert spec["accessModes"] == ["ReadWriteMany", "ReadOnlyMany"]
    assert spec["capacity"] == {"storage": "5Gi"}
    assert (spec["claimRef"]["namespace"], spec["claimRef"]["name"], spec["claimRef"]["uid"]) == (
        "default",
        "data",
        "1-2",
    )
    assert spec["persistentVolumeReclaimPolicy"] == "Delete"
    assert "nodeAffinity" not in spec


def test_a_single_volume_is_held_to_the_node_of_its_first_pod():
    one = claim(SINGLE, modes=("ReadWriteOnce",), annotations=SELECTED)
    (term,) = volumes.volume_for(one, Path("/x"))["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}
    ]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        pytest.param(
            claim(SINGLE, annotations=SELECTED), "gives only ReadWriteOnce", id="shared from single"
        ),
        pytest.param(claim(volumeMode="Block"), "only Filesystem", id="block device"),
        pytest.param(claim(selector={"matchLabels": {"a": "b"}}), "nothing to select", id="selector"),
    ],
)
def test_what_a_class_does_not_give_is_refused(one, reason):
    with pytest.raises(RefusedError, match=reason):
        volumes.volume_for(one, Path("/x"))


@pytest.mark.parametrize(
    ("annotations", "options"),
    [
        ({}, None),
        ({volumes.SIZE_LIMIT: "50Mi"}, "size=50M,mode=1777,rw"),
        ({volumes.SIZE_LIMIT: "1Gi", volumes.READ_ONLY: "true"}, "size=1G,mode=1777,ro"),
        ({volumes.SIZE_LIMIT: "4096", volumes.READ_ONLY: "false"}, "size=4096,mode=1777,rw"),
        ({volumes.READ_ONLY: "false"}, None),
    ],
)
def test_annotations_become_mount_options(annotations, options):
    assert volumes.mount_options(annotations) == options


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({volumes.SIZE_LIMIT: "50MB"}, "a number with Ki, Mi or Gi"),
        ({volumes.SIZE_LIMIT: "50Mi,exec"}, "a number with Ki, Mi or Gi"),
        ({volumes.READ_ONLY: "true"}, "needs local.phitune.dev/size-limit"),
        ({volumes.SIZE_LIMIT: "50Mi", volumes.READ_ONLY: "yes"}, "got 'yes'"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(annotations, reason):
    with pytest.raises(RefusedError, match=reason):
        volumes.mount_options(annotations)


def test_a_claim_gets_a_folder_that_all_may_write(tmp_path):
    api = FakeApi([claim()])
    Provisioner(api, tmp_path).settle()
    (folder,) = tmp_path.iterdir()
    assert folder.name == "default-data-1-2"
    assert oct(folder.stat().st_mode & 0o7777) == "0o1777"
    ((path, volume),) = api.created
    assert (path, volume["spec"]["hostPath"]["path"]) == (volumes.VOLUMES, str(folder))


def test_a_volume_that_is_there_already_is_no_error(tmp_path):
    api = FakeApi([claim()])
    api.conflicts = True
    Provisioner(api, tmp_path).settle()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_refusal_is_said_once_and_leaves_no_folder(tmp_path):
    api = FakeApi([claim(annotations={volumes.READ_ONLY: "true"})])
    provisioner = Provisioner(api, tmp_path)
    provisioner.settle()
    provisioner.settle()
    ((path, event),) = api.created
    assert (path, event["reason"]) == ("/api/v1/namespaces/default/events", "ProvisioningFailed")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_comes_too_late_is_refused(tmp_path):
    one = claim(volume="pvc-1-2", annotations={volumes.SIZE_LIMIT: "5Mi"})
    (tmp_path / volumes.folder_name(one)).mkdir()
    api = FakeApi([one])
    Provisioner(api, tmp_path).settle()
    assert "must be there when the claim is made" in api.created[0][1]["message"]


def released(folder: Path, *, by: str = volumes.PROVISIONER, phase: str = "Released") -> dict[str, Any]:
    return {
        "metadata": {"name": "pvc-1-2", "annotations": {volumes.PROVISIONED_BY: by}},
        "spec": {"hostPath": {"path": str(folder)}},
        "status": {"phase": phase},
    }


def test_a_released_volume_goes_with_its_folder(tmp_path):
    folder = tmp_path / "default-data-1-2"
    folder.mkdir()
    (folder / "file").write_text("x")
    api = FakeApi([], [released(folder)])
    Provisioner(api, tmp_path).settle()
    assert not folder.exists()
    assert api.deleted == [f"{volumes.VOLUMES}/pvc-1-2"]


@pytest.mark.parametrize(
    "volume", [{"by": "somebody.else/x"}, {"phase": "Bound"}], ids=["another provisioner's", "in use"]
)
def test_any_other_volume_stays(tmp_path, volume):
    folder = tmp_path / "default-data-1-2"
    folder.mkdir()
    api = FakeApi([], [released(folder, **volume)])
    Provisioner(api, tmp_path).settle()
    assert folder.exists()
    assert api.deleted == []


def test_a_volume_elsewhere_is_never_removed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "volumes").mkdir()
    provisioner = Provisioner(FakeApi([], [released(elsewhere)]), tmp_path / "volumes")
    with pytest.raises(volumes.ClusterError, match="not ours to remove"):
        provisioner.settle()
    assert elsewhere.exists()


def test_the_shared_class_is_the_default():
    classes = [item for item in volumes.objects() if item["kind"] == "StorageClass"]
    defaults = [
        item["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] for item in classes
    ]
    assert [item["metadata"]["name"] for item in classes] == [SHARED, SINGLE]
    assert defaults == ["true", "false"]
