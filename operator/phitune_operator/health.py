"""/healthz: whether the process should be started again. /readyz: whether it has seen the cluster."""

from aiohttp import web

from phitune_operator.resync import Resync

PORT = 8080


class Health:
    """Answers the kubelet's probes."""

    def __init__(self) -> None:
        self._resync: Resync | None = None

    def ready(self, resync: Resync) -> None:
        """Say that the store is filled and jobs are served."""
        self._resync = resync

    async def serve(self, port: int) -> web.AppRunner:
        """Begin to answer; clean the runner up when done."""
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)])
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
        if self._resync is None:
            return web.Response(status=503, text="waiting for the cluster\n")
        return web.Response(text="ok\n")
