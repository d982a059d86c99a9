"""The chart with all that it can make, in each minor version of Kubernetes on which it installs."""

from __future__ import annotations

import pytest

from harness.chart import rendered
from harness.cluster import Cluster, CommandError
from harness.kubernetes_versions import MINORS, is_known, problems

EVERYTHING = (
    "replicas=2",
    'gangScheduling="enabled"',
    "image.digest=" + '"sha256:' + "a" * 64 + '"',
    'imagePullSecrets=[{"name":"pull"}]',
    'namespaces=["a","b"]',
    'networkPolicy.prometheusNamespace="monitoring"',
    *(f"monitoring.{part}=true" for part in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")),
    'serviceAccount.annotations={"a":"b"}',
    'podAnnotations={"a":"b"}',
    'nodeSelector={"a":"b"}',
    'tolerations=[{"key":"a","operator":"Exists"}]',
    'priorityClassName="high"',
)


OF_GANGS = {
    f"admissionregistration.k8s.io/v1 {kind}"
    for kind in ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
}
"""What the chart makes for gangs of the cluster's own scheduler, which only 1.36 has."""


@pytest.mark.parametrize("minor", MINORS)
def test_all_that_the_chart_makes_means_the_same_in_every_version(cluster: Cluster, minor: str) -> None:
    objects = rendered(cluster, *EVERYTHING, options=("--kube-version", minor))
    known = [found for found in objects if is_known(found)]
    assert {f"{found['apiVersion']} {found['kind']}" for found in known} >= OF_GANGS
    too_new = set() if minor == "1.36" else {f"{kind} is not in {minor}" for kind in OF_GANGS}
    assert {said for found in known for said in problems(found, minor)} == too_new
    others = {found["apiVersion"] for found in objects if found not in known}
    assert others == {"monitoring.coreos.com/v1"}


def test_chart_does_not_install_on_an_older_version(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match="incompatible with Kubernetes"):
        rendered(cluster, options=("--kube-version", "1.28"))
