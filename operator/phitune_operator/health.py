"""What the operator answers over HTTP: the kubelet's probes, and Prometheus."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from phitune_operator.metrics import Metrics
from phitune_operator.resync import Resync

PORT = 8080


class Health:
    """Answers the kubelet's probes, and Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._resync: Resync | None = None
        self._is_standby = False
        self._metrics = metrics

    def standby(self) -> None:
        """Say that this process is fit to work, and waits for another one to stop."""
        self._is_standby = True

    def leading(self) -> None:
        """Say that this process is the one to work, and not ready for that yet."""
        self._is_standby = False

    def ready(self, resync: Resync) -> None:
        """Say that the store is filled and jobs are served."""
        self._resync = resync

    async def serve(self, port: int) -> web.AppRunner:
        """Begin to answer; clean the runner up when done."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._tell_metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=port).start()
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        silent = self._resync.silent if self._resync is not None else []
        if silent:
            return web.Response(status=503, text=f"watches do not tell what happens: {', '.join(silent)}\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._resync is None and not self._is_standby:
            return web.Response(status=503, text="waiting for the cluster\n")
        return web.Response(text="ok\n")

    async def _tell_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
