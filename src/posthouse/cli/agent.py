"""`posthouse agent`"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from posthouse.cli.input import read_json
from posthouse.domain.errors import BadRequest


def _option(text: str, default: str | bool = False, panel: str | None = None) -> Any:
    return typer.Option(help=text, show_default=default, rich_help_panel=panel)


WORKER, READINESS, MEASURE, LIMITS = "Worker", "Readiness", "Performance", "Limits"


def agent(
    upstream: Annotated[str, typer.Option(help="Base address of the model server.")],
    worker_id: Annotated[int | None, _option("Id of this worker.", "$CONTAINER_ID", WORKER)] = None,
    mtoken: Annotated[
        str | None, _option("Secret of this worker; better in the environment.", "$MASTER_TOKEN", WORKER)
    ] = None,
    report_addr: Annotated[
        list[str] | None, _option("Base address of the server; repeat for more.", "$REPORT_ADDR", WORKER)
    ] = None,
    url: Annotated[
        str | None,
        _option(
            "This worker's address as clients see it.",
            "http://$PUBLIC_IPADDR:$VAST_TCP_PORT_<listen port>, https:// with $USE_SSL",
            WORKER,
        ),
    ] = None,
    listen_host: Annotated[str | None, _option("Address to listen on.", "follows from the url", WORKER)] = None,
    listen_port: Annotated[int | None, _option("Port to listen on.", "$WORKER_PORT", WORKER)] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            help="Serve HTTPS, with a certificate that the server gives.",
            show_default="$USE_SSL",
            rich_help_panel=WORKER,
        ),
    ] = None,
    unsecured: Annotated[
        bool | None,
        typer.Option(
            "--unsecured",
            help="Serve requests without a valid signature, too. For development.",
            show_default="$UNSECURED",
            rich_help_panel=WORKER,
        ),
    ] = None,
    require_grant: Annotated[
        bool | None,
        typer.Option(
            "--require-grant/--no-require-grant",
            help="Serve only requests that bring a grant of their own.",
            show_default="$POSTHOUSE_REQUIRE_GRANT, else if the server gives grants",
            rich_help_panel=WORKER,
        ),
    ] = None,
    health: Annotated[
        str | None,
        _option(
            "Path or address on the model server that answers 2xx while it is well.",
            "$MODEL_HEALTH_ENDPOINT, else /health if there is no --ready-log",
            READINESS,
        ),
    ] = None,
    ready_log: Annotated[
        str | None, _option("Text in a line of the log file which says that the model is ready.", panel=READINESS)
    ] = None,
    error_log: Annotated[
        list[str] | None, _option("Text in a line that says that it failed; repeat for more.", panel=READINESS)
    ] = None,
    log_file: Annotated[Path | None, _option("What the model server logs to.", "$MODEL_LOG", READINESS)] = None,
    perf: Annotated[
        float | None, _option("Work per second of this worker, if known.", "a benchmark finds out", MEASURE)
    ] = None,
    workload: Annotated[
        str | None,
        _option("Work of a request: tokens, json:<dotted.path>, cost or constant:<number>.", "tokens", MEASURE),
    ] = None,
    benchmark_route: Annotated[str | None, _option("Path of the benchmark's request.", "/generate", MEASURE)] = None,
    benchmark_payload: Annotated[
        str | None, _option("Its payload, as JSON.", "a prompt and 256 tokens", MEASURE)
    ] = None,
    benchmark_work: Annotated[float | None, _option("Its work.", "as the workload rule says", MEASURE)] = None,
    benchmark_concurrency: Annotated[int | None, _option("Requests made at once.", "10", MEASURE)] = None,
    benchmark_runs: Annotated[int | None, _option("Rounds, of which the best counts.", "8", MEASURE)] = None,
    directory: Annotated[
        Path | None, _option("Where the benchmark's result is kept over a restart.", ".", MEASURE)
    ] = None,
    parallel: Annotated[
        int | None, _option("Requests that the model server is given at once; 0: all.", "0", LIMITS)
    ] = None,
    max_requests: Annotated[
        int | None, _option("Requests accepted at once, running and waiting.", "1000", LIMITS)
    ] = None,
    max_queue_time_s: Annotated[
        float | None, _option("Longest wait, in seconds, that a request is accepted into.", "30", LIMITS)
    ] = None,
    max_body_bytes: Annotated[int | None, _option("Largest request body, in bytes.", "33554432", LIMITS)] = None,
    max_sessions: Annotated[int | None, _option("Sessions open at once; 0: none.", "10", LIMITS)] = None,
    max_session_s: Annotated[
        float | None, _option("Longest time, in seconds, that a session stays open without a request.", "3600", LIMITS)
    ] = None,
    silence_s: Annotated[
        float | None, _option("Longest time, in seconds, without a byte from the model server.", "600", LIMITS)
    ] = None,
    drain_s: Annotated[
        float | None, _option("How long, in seconds, running requests may go on after a stop.", "60", LIMITS)
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least level that is logged.")
    ] = "info",
) -> None:
    """Run beside a model server on a worker: measure, report, verify, queue, proxy.

    SIGTERM drains and stops it. In a worker that Posthouse made, everything but
    the model server's address is in the environment.

    Examples:
      posthouse agent --upstream http://127.0.0.1:8000
      posthouse agent --upstream http://127.0.0.1:8000 --ready-log 'Model loaded' --workload constant:1
    """
    from posthouse.agent import AgentSettings, Benchmark, run

    benchmark = {
        "route": benchmark_route,
        "payload": None if benchmark_payload is None else read_json(benchmark_payload, "--benchmark-payload"),
        "work": benchmark_work,
        "concurrency": benchmark_concurrency,
        "runs": benchmark_runs,
    }
    said: dict[str, Any] = {name: value for name, value in benchmark.items() if value is not None}
    try:
        settings = AgentSettings.from_environment(
            os.environ,
            upstream=upstream,
            worker_id=worker_id,
            mtoken=mtoken,
            report_addrs=tuple(report_addr or ()) or None,
            url=url,
            listen_host=listen_host,
            listen_port=listen_port,
            tls=tls,
            unsecured=unsecured or None,
            require_grant=require_grant,
            health=health,
            ready_log=ready_log,
            error_logs=tuple(error_log or ()) or None,
            log_file=log_file,
            perf=perf,
            workload=workload,
            benchmark=Benchmark(**said) if said else None,
            directory=directory,
            parallel=parallel,
            max_requests=max_requests,
            max_queue_time_s=max_queue_time_s,
            max_body_bytes=max_body_bytes,
            max_sessions=max_sessions,
            max_session_s=max_session_s,
            silence_s=silence_s,
            drain_s=drain_s,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(settings))
