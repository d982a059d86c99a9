"""Certificates and kubeconfigs. Made once per cluster by openssl; a file that exists is kept."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from .paths import Paths, write_atomically
from .plan import API_SERVICE_ADDRESS, CLUSTER_DOMAIN, Cluster
from .shell import run

DAYS = "3650"
_OPENSSL_CONFIG = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = unused\n"

Key = tuple[str, ...]
"""How openssl makes a private key."""
CURVE: Key = ("ecparam", "-name", "prime256v1", "-genkey", "-noout")
RSA: Key = ("genrsa", "-traditional")

WEBHOOK_AUTHORITY = "training-operator-ca"
"""The name that the training-operator insists on. It reads only an RSA key in the old format, too."""

API_SERVER_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")

CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "apiserver-kubelet-client": "/O=system:masters/CN=apiserver-kubelet-client",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "volumes": "/CN=local-volumes",
}
"""Who each client is to the API server."""


def ensure(cluster: Cluster, paths: Paths) -> None:
    """Make what is missing for this cluster and its nodes."""
    pki = paths.pki
    pki.mkdir(parents=True, exist_ok=True)
    pki.chmod(0o700)
    write_atomically(pki / "openssl.conf", _OPENSSL_CONFIG)
    _authority(pki, "ca")
    _authority(pki, "front-proxy-ca")
    _leaf(pki, "front-proxy-client", "/CN=front-proxy-client", authority="front-proxy-ca")
    for name, subject in CLIENTS.items():
        _leaf(pki, name, subject)
    addresses = ["127.0.0.1", str(cluster.control_address), str(API_SERVICE_ADDRESS)]
    names = [*API_SERVER_NAMES, f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "localhost"]
    served = [*(f"IP:{address}" for address in addresses), *(f"DNS:{name}" for name in names)]
    _leaf(pki, "apiserver", "/CN=kube-apiserver", served_as=served)
    _authority(pki, WEBHOOK_AUTHORITY, key=RSA)
    served = ["DNS:training-operator.kubeflow.svc"]
    _leaf(pki, "webhook", "/CN=training-operator", authority=WEBHOOK_AUTHORITY, served_as=served)
    _service_account_keys(pki)
    for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        _kubeconfig(cluster, paths, paths.config / f"{name}.kubeconfig", name)
    for node in cluster.nodes:
        _leaf(pki, f"{node.name}-client", f"/O=system:nodes/CN=system:node:{node.name}")
        served = [f"IP:{node.address}", f"DNS:{node.name}"]
        _leaf(pki, f"{node.name}-server", f"/CN={node.name}", served_as=served)
        _kubeconfig(cluster, paths, paths.config / f"{node.name}.kubeconfig", f"{node.name}-client")
    _kubeconfig(cluster, paths, paths.kubeconfig, "admin")


def _authority(pki: Path, name: str, *, key: Key = CURVE) -> None:
    if (pki / f"{name}.crt").exists():
        return
    extensions = [
        "basicConstraints=critical,CA:true",
        "keyUsage=critical,digitalSignature,keyCertSign,cRLSign",
    ]
    # The training-operator looks for its authority's name among the alternative ones.
    _certificate(pki, name, f"/CN={name}", [*extensions, f"subjectAltName=DNS:{name}"], key=key)


def _leaf(
    pki: Path, name: str, subject: str, *, authority: str = "ca", served_as: Sequence[str] = ()
) -> None:
    """A client's certificate, or that of a server which is known under the names and addresses given."""
    if (pki / f"{name}.crt").exists():
        return
    use = "serverAuth" if served_as else "clientAuth"
    extensions = ["basicConstraints=CA:false", "keyUsage=digitalSignature", f"extendedKeyUsage={use}"]
    if served_as:
        extensions.append(f"subjectAltName={','.join(served_as)}")
    signer = ["-CA", str(pki / f"{authority}.crt"), "-CAkey", str(pki / f"{authority}.key")]
    _certificate(pki, name, subject, extensions, signer=signer)


def _certificate(
    pki: Path,
    name: str,
    subject: str,
    extensions: Sequence[str],
    *,
    signer: Sequence[str] = (),
    key: Key = CURVE,
) -> None:
    """A new key and its certificate, signed by itself or by a signer. The certificate appears last."""
    private, aside = pki / f"{name}.key", pki / f".{name}.crt.new"
    run(["openssl", *key, "-out", private])
    command = ["openssl", "req", "-x509", "-config", str(pki / "openssl.conf"), "-days", DAYS]
    command += ["-key", str(private), "-subj", subject, "-out", str(aside), *signer]
    for extension in extensions:
        command += ["-addext", extension]
    run(command)
    private.chmod(0o600)
    aside.replace(pki / f"{name}.crt")


def _service_account_keys(pki: Path) -> None:
    private, public = pki / "service-accounts.key", pki / "service-accounts.pub"
    if not public.exists():
        aside = pki / ".service-accounts.pub.new"
        run(["openssl", *CURVE, "-out", private])
        run(["openssl", "ec", "-in", private, "-pubout", "-out", aside])
        aside.replace(public)


def webhook_secret(paths: Paths) -> dict[str, str]:
    """The training-operator's certificates, as it keeps them.

    It would make them itself, but then they are in its pod only after the kubelet's next look at the Secret.
    """
    files = {"ca.crt": f"{WEBHOOK_AUTHORITY}.crt", "ca.key": f"{WEBHOOK_AUTHORITY}.key"}
    files |= {"tls.crt": "webhook.crt", "tls.key": "webhook.key"}
    return {key: base64.b64encode((paths.pki / name).read_bytes()).decode() for key, name in files.items()}


def _kubeconfig(cluster: Cluster, paths: Paths, target: Path, certificate: str) -> None:
    """Whole in itself, so that it can be copied. JSON is YAML."""

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    user = {
        "client-certificate-data": embedded(paths.pki / f"{certificate}.crt"),
        "client-key-data": embedded(paths.pki / f"{certificate}.key"),
    }
    server = {"server": cluster.server, "certificate-authority-data": embedded(paths.pki / "ca.crt")}
    context = {"cluster": cluster.name, "user": certificate}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": server}],
        "users": [{"name": certificate, "user": user}],
        "contexts": [{"name": cluster.name, "context": context}],
        "current-context": cluster.name,
    }
    write_atomically(target, json.dumps(content, indent=2) + "\n", mode=0o600)
