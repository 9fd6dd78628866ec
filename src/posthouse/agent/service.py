"""One agent, from its start to its stop."""

import asyncio
import contextlib
import logging
import signal
import time
from typing import Final

from aiohttp import ClientSession, web

from posthouse.agent.adapters import held_adapters, watch_adapters
from posthouse.agent.benchmark import BenchmarkFailed, measured_perf
from posthouse.agent.certificate import Certificate
from posthouse.agent.loading import Progress
from posthouse.agent.logfile import Printed
from posthouse.agent.model import ModelServer
from posthouse.agent.proxy import Proxy
from posthouse.agent.report import Reporter
from posthouse.agent.server import Server, server_session
from posthouse.agent.settings import AgentSettings
from posthouse.agent.upstream import Listener, wait_until_ready, watch_health, watch_loading, watch_log
from posthouse.agent.worker import Worker
from posthouse.gate import Gate, listening
from posthouse.relay import relay_session

log = logging.getLogger(__name__)

_CUT_OFF_S: Final = 1.0  # seconds that answers get for their last bytes, and cancelled requests for their end
_LAST_REPORT_S: Final = 5.0  # a stop must not wait for a server that is away


async def run(settings: AgentSettings) -> str:
    """Run the agent until SIGTERM or SIGINT, then let running requests end; or until it is cancelled.

    Returns how the model server ended, if the agent started it and it has; empty after a stop.

    Raises: OSError when it cannot listen, or has no directory.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    worker, progress = Worker(), Progress(settings)
    async with contextlib.AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        upstream = await stack.enter_async_context(relay_session(settings.silence_s))
        calls = await stack.enter_async_context(server_session())
        server = Server(calls, settings)
        certificate = Certificate(calls, settings) if settings.tls else None
        gate = Gate(settings.max_connections, settings.max_body_bytes)
        proxy = Proxy(settings, worker, upstream, server, gate)
        reporter = Reporter(calls, settings, worker, server, progress)
        life = Life(settings, worker, upstream, server, certificate, progress)
        runner = web.AppRunner(
            proxy.application(), handler_cancellation=True, access_log=None, shutdown_timeout=_CUT_OFF_S
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        listener = stack.enter_context(listening(settings.listen_host, settings.listen_port))
        context = certificate.context if certificate else None
        assert runner.server is not None  # it has been set up
        log.info(
            "agent: worker %d listens on %s:%d for %s",
            settings.worker_id,
            settings.listen_host,
            settings.listen_port,
            settings.url,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(life.run(stop)),
                group.create_task(reporter.run()),
                group.create_task(proxy.sessions.expire()),
                accepting := group.create_task(gate.run(runner.server, listener, context)),
            ]
            await stop.wait()
            if not life.ended:
                await _drain(settings, worker, proxy)
            accepting.cancel()
            await runner.cleanup()
            await life.stop()
            for task in tasks:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_S):
                await reporter.deliver()
        log.info("agent: stopped")
        return worker.failure if life.ended else ""


class Life:
    """Makes the worker ready and watches over it, with the model server that it runs itself or that others started."""

    def __init__(
        self,
        settings: AgentSettings,
        worker: Worker,
        upstream: ClientSession,
        server: Server,
        certificate: Certificate | None,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._upstream = upstream
        self._server = server
        self._certificate = certificate
        self._progress = progress
        self._printed = Printed()
        self._listener = Listener(settings, worker)
        self._model = ModelServer(settings, self._printed, self._listener.hear) if settings.command else None
        self._needed: list[asyncio.Task[None]] = []
        """What requests need, and the model does not."""
        self.ended = False
        """The model server has ended for good."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run until cancelled. Sets `stop` when the model server has ended for good."""
        async with asyncio.TaskGroup() as group:
            known = group.create_task(self._server.start())
            # Without the key and the certificate every request would be refused.
            self._needed = [] if self._settings.unsecured else [known]
            if self._certificate:
                self._needed.append(group.create_task(self._certificate.get()))
                group.create_task(self._certificate.renew())
            group.create_task(self._server.refresh())
            if self._model is None:
                group.create_task(watch_log(self._settings, self._printed, self._listener))
                await self._serve()
            else:
                await self._serve_with(self._model)
                stop.set()

    async def stop(self) -> None:
        """End the model server, if it is ours."""
        if self._model is not None:
            await self._model.stop()

    async def _serve_with(self, model: ModelServer) -> None:
        """Return once the model server has ended, and is not to be started again."""
        worker = self._worker
        while True:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve())
                how = await model.run()
                serving.cancel()
            if worker.stopping:
                return
            log.error("%s", how)
            wait_s = model.restart_in_s()
            if wait_s is None:
                self.ended = True
                worker.fail(how)
                return
            self._listener.ready_line.clear()
            worker.note_restart(f"{how}; it is started again in {wait_s:g} s")
            await asyncio.sleep(wait_s)

    async def _serve(self) -> None:
        """Make the worker ready, and then keep its health up to date."""
        settings, worker, upstream = self._settings, self._worker, self._upstream
        async with asyncio.TaskGroup() as group:
            group.create_task(watch_loading(settings, worker, self._progress, self._printed))
            await wait_until_ready(upstream, settings, worker, self._progress, self._listener.ready_line)
            log.info("model server: ready after %.1f s", time.time() - worker.started_at)
            worker.waits_for("the benchmark of the model server")
            try:
                perf = settings.perf or await measured_perf(upstream, settings)
            except BenchmarkFailed as error:
                log.error("benchmark: failed: %s", error)
                worker.fail(f"benchmark failed: {error}")
                return
            worker.waits_for("the server, for its public key and a certificate")
            await asyncio.gather(*map(asyncio.shield, self._needed))
            worker.hold(await held_adapters(upstream, settings.upstream) or ())
            worker.become_ready(perf)
            log.info("agent: ready, %g work/s", perf)
            group.create_task(watch_adapters(upstream, settings.upstream, worker))
            await watch_health(upstream, settings, worker)


async def _drain(settings: AgentSettings, worker: Worker, proxy: Proxy) -> None:
    """Refuse new requests, wait for those that run, and end what still runs after `drain_s`."""
    log.info("agent: stopping, %d requests run", len(worker.in_flight))
    worker.stopping = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_s):
            await worker.idle.wait()
    proxy.cut_off = True
    await proxy.sessions.close_all()
