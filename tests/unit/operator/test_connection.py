"""How the operator reaches the API server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from harness.ports import free_port
from phitune_operator.kinds import NODE, Object
from phitune_operator.kube import Kube
from phitune_operator.metrics import Metrics


def test_a_proxy_that_the_environment_has_for_the_hub_is_not_asked_for_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> Object | None:
        runner = web.AppRunner(api_server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        kube = await Kube.connect(Metrics())
        try:
            return await kube.get(NODE, None, "node-1")
        finally:
            await kube.close()
            await runner.cleanup()

    async def node(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    port, nobody = free_port(), free_port()
    api_server = web.Application()
    api_server.router.add_get("/api/v1/nodes/{name}", node)
    kubeconfig = {
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
        "current-context": "test",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig), encoding="utf-8")
    # KUBECONFIG itself is read when the library is imported.
    location = "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(location, str(tmp_path / "kubeconfig"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    assert asyncio.run(ask()) == {"path": "/api/v1/nodes/node-1"}
