"""One agent, from its start to its stop."""

import asyncio
import contextlib
import logging
import signal
import time
from typing import Final

from aiohttp import ClientSession, web

from posthouse.agent.benchmark import BenchmarkFailed, measured_perf
from posthouse.agent.certificate import Certificate
from posthouse.agent.proxy import Proxy
from posthouse.agent.report import Reporter
from posthouse.agent.server import Server, server_session
from posthouse.agent.settings import AgentSettings
from posthouse.agent.upstream import wait_until_ready, watch_health, watch_log
from posthouse.agent.worker import Worker
from posthouse.relay import relay_session

log = logging.getLogger(__name__)

_CUT_OFF_S: Final = 1.0  # seconds that answers get for their last bytes, and cancelled requests for their end
_LAST_REPORT_S: Final = 5.0  # a stop must not wait for a server that is away


async def run(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT, then let running requests end; or until it is cancelled.

    Raises: OSError when it cannot listen, or has no directory.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    worker = Worker()
    async with contextlib.AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        upstream = await stack.enter_async_context(relay_session(settings.silence_s))
        calls = await stack.enter_async_context(server_session())
        server = Server(calls, settings)
        certificate = Certificate(calls, settings) if settings.tls else None
        proxy = Proxy(settings, worker, upstream, server)
        reporter = Reporter(calls, settings, worker)
        runner = web.AppRunner(
            proxy.application(), handler_cancellation=True, access_log=None, shutdown_timeout=_CUT_OFF_S
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        context = certificate.context if certificate else None
        await web.TCPSite(runner, settings.listen_host, settings.listen_port, ssl_context=context).start()
        log.info(
            "agent: worker %d listens on %s:%d for %s",
            settings.worker_id,
            settings.listen_host,
            settings.listen_port,
            settings.url,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_live(settings, worker, upstream, server, certificate)),
                group.create_task(reporter.run()),
                group.create_task(proxy.sessions.expire()),
            ]
            await stop.wait()
            await _drain(settings, worker, proxy, runner)
            for task in tasks:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_S):
                await reporter.deliver()
        log.info("agent: stopped")


async def _live(
    settings: AgentSettings,
    worker: Worker,
    upstream: ClientSession,
    server: Server,
    certificate: Certificate | None,
) -> None:
    """Make the worker ready, and watch over it."""
    ready_line = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_log(settings, worker, ready_line))
        key = None if settings.unsecured else group.create_task(server.start())
        certified = group.create_task(certificate.get()) if certificate else None
        await wait_until_ready(upstream, settings, ready_line)
        log.info("model server: ready after %.1f s", time.time() - worker.started_at)
        try:
            perf = settings.perf or await measured_perf(upstream, settings)
        except BenchmarkFailed as error:
            log.error("benchmark: failed: %s", error)
            worker.fail(f"benchmark failed: {error}")
            return
        if key is not None:
            await key  # without it every request would be refused
            group.create_task(server.refresh())
        if certificate and certified:
            await certified
            group.create_task(certificate.renew())
        worker.become_ready(perf)
        log.info("agent: ready, %g work/s", perf)
        await watch_health(upstream, settings, worker)


async def _drain(settings: AgentSettings, worker: Worker, proxy: Proxy, runner: web.AppRunner) -> None:
    """Refuse new requests, wait for those that run, and end what still runs after `drain_s`."""
    log.info("agent: stopping, %d requests run", len(worker.in_flight))
    worker.stopping = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_s):
            await worker.idle.wait()
    proxy.cut_off = True
    await proxy.sessions.close_all()
    await runner.cleanup()
