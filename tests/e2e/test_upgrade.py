"""From the release before to this one and back, while a job trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.cluster import OPERATOR_NAMESPACE, Cluster, run
from harness.installed import CHART, CRD, RELEASE, Installed, install
from harness.jobs import finetunejob, long_enough_to_disturb
from harness.lab import Lab
from harness.provision import hack_cluster

pytestmark = pytest.mark.timeout(600)
BEFORE = "0.0.9"
"""No release is published yet: the test makes one, without some of what this one brings."""
STEPS = 200
"""Enough to train through an upgrade and a rollback."""
COLUMN = """\
    - name: Image
      type: string
      jsonPath: .status.placement.image
      priority: 1
      description: Trainer image
"""
CRD_BEFORE = {COLUMN: "", " && !self.name.startsWith(''PHITUNE_'')": "", "maxLength: 8192": "maxLength: 9999"}
LONG, OURS = {"name": "LONG", "value": "x" * 9000}, {"name": "PHITUNE_OURS", "value": "1"}
"""A variable beyond the bound, and one against the rule."""


@pytest.fixture
def chart_before(phitune: Installed, tmp_path: Path) -> str:
    """The package of a chart without NetworkPolicy, whose CRD has one column less and accepts more."""
    sources = tmp_path / "phitune"
    shutil.copytree(CHART, sources)
    (sources / "templates/networkpolicy.yaml").unlink()
    crd = sources / "templates/crd.yaml"
    text = crd.read_text(encoding="utf-8")
    for now, before in CRD_BEFORE.items():
        assert text.count(now) == 1
        text = text.replace(now, before)
    crd.write_text(text, encoding="utf-8")
    version = ("--version", BEFORE, "--app-version", BEFORE, "--destination", str(tmp_path))
    phitune.cluster.helm("package", str(sources), *version)
    return str(tmp_path / f"phitune-{BEFORE}.tgz")


@pytest.fixture
def image_before(phitune: Installed) -> str:
    """The operator's image under another tag, on every node."""
    if not phitune.cluster.is_local:
        pytest.skip("names an image anew on the nodes, which takes a local cluster")
    image = f"{phitune.operator_image.rpartition(':')[0]}:{BEFORE}"
    tag = ("exec", "--", "ctr", "images", "tag", "--force", phitune.operator_image, image)
    for node in phitune.cluster.kubectl("get", "nodes", "-o", "name").split():
        where = ("--state", str(phitune.cluster.state), node.removeprefix("node/"))
        run(hack_cluster("node", *where, *tag))
    return image


def brought(cluster: Cluster) -> tuple[str, bool, bool]:
    """The operator's image, whether the CRD has the column, whether there is the NetworkPolicy."""
    deployment = cluster.get("deployment", RELEASE, OPERATOR_NAMESPACE)
    crd = cluster.get("crd", CRD)
    assert deployment is not None
    assert crd is not None
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (version,) = crd["spec"]["versions"]
    columns = {column["name"] for column in version["additionalPrinterColumns"]}
    policy = cluster.get("networkpolicy", RELEASE, OPERATOR_NAMESPACE)
    return container["image"], "Image" in columns, policy is not None


def uid_of_crd(cluster: Cluster) -> str:
    crd = cluster.get("crd", CRD)
    assert crd is not None
    return str(crd["metadata"]["uid"])


def test_upgrade_from_the_release_before_and_back_touches_no_pod_and_leaves_nothing(
    phitune: Installed, lab: Lab, chart_before: str, image_before: str
) -> None:
    cluster, crd = phitune.cluster, uid_of_crd(phitune.cluster)
    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
    try:
        install(cluster, chart=chart_before, operator_image=image_before)
        assert brought(cluster) == (image_before, False, False)
        lab.apply(finetunejob("training", long_enough_to_disturb({"training": {"maxSteps": STEPS}})))
        lab.wait_for_step("training", 1)
        uids = {pod["metadata"]["uid"] for pod in lab.pods("training")}
        cluster.patch("finetunejob", "training", lab.namespace, {"spec": {"env": [LONG, OURS]}})

        install(cluster)
        assert brought(cluster) == (phitune.operator_image, True, True)
        cluster.helm("rollback", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "2m")
        assert brought(cluster) == (image_before, False, False)
        assert lab.status("training")["progress"]["step"] < STEPS, "it has ended before all was tried"
        status = lab.wait_for_phase("training", "Succeeded")
        assert status["progress"]["step"] == STEPS
        assert (status["attempt"], status["restarts"]) == (1, 0)
        accepted = lab.condition("training", "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
        for refused in ("spec.env[0].value", "spec.env[1].name"):
            assert refused in accepted["message"]
        assert {pod["metadata"]["uid"] for pod in lab.pods("training")} == uids
    finally:
        install(cluster)
    assert uid_of_crd(cluster) == crd, "with another one, every job would have gone"
    kinds = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    left = cluster.kubectl("get", kinds, "-A", "-l", f"helm.sh/chart=phitune-{BEFORE}", "-o", "name")
    assert left == ""
