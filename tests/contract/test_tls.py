"""Certificates: who gets one from the server, what is in it, and HTTPS end to end with unmodified peers."""

import asyncio
import base64
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from posthouse.agent import AgentSettings
from posthouse.agent.certificate import Certificate
from posthouse.app.running import Running
from posthouse.cli.options import ADMIN_KEY_FILE, connect
from posthouse.client import AsyncClient, Unreachable
from posthouse.engine.certificates import MAX_GIVEN
from posthouse.errors import Refused
from posthouse.server.tls import ServerCertificate
from posthouse.signing.authority import LIFETIME, RENEWED_AFTER, Authority, new_request
from tests.kit.agent_world import listening
from tests.kit.live import AGENT, TIMEOUT_S, add_endpoint, live_server, ready, until
from tests.kit.ports import free_port

IDLER = "exec sleep 600"
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


def request(key: Any, *names: str, hash_: Any = hashes.SHA256()) -> bytes:  # noqa: B008 - it has no state
    """A signing request for some host names, whose subject claims to be somebody else, too."""
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pyworker.vast.ai")]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hash_).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(tmp_path / "data") as server:
        async with AsyncClient(server.url, server.admin_key) as owner:
            await add_endpoint(owner, "idle", IDLER)
        await until(lambda: bool(placed(server)), "a worker is placed")
        yield server


def placed(server: Running) -> list[int]:
    fleet = server.hub.fleet_named("idle")
    return [] if fleet is None else [w.id for w in fleet.workers.values() if w.addresses]


async def asked(
    server: Running, body: bytes, instance_id: object, source: str = HERE, token: str = ""
) -> tuple[int, bytes]:
    """What `sign_cert` answers a caller at an address of this machine."""
    path = f"{server.url}/w/{token}" if token else server.url
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    headers = {"Content-Type": "application/octet-stream"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        params = {"instance_id": str(instance_id)}
        async with session.post(f"{path}/api/v0/sign_cert/", params=params, data=body) as answer:
            return answer.status, await answer.read()


def token_of(server: Running, worker_id: int) -> str:
    """The token, as the worker itself finds it."""
    files = server.hub.providers["process"].inner.inner.inner.root.glob(f"*-{worker_id}/instance.json")  # type: ignore[attr-defined]
    return str(json.loads(next(files).read_bytes())["env"]["MASTER_TOKEN"])


async def test_a_certificate_is_for_where_the_worker_is_whatever_is_asked_for(server: Running, tmp_path: Path) -> None:
    [worker] = placed(server)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    status, pem = await asked(server, request(key, "run.vast.ai", "bank.example"), worker)
    assert status == 200
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.IPAddress(ip_address(HERE))]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.subject.rfc4514_string() == f"CN=worker {worker}"
    assert certificate.public_key() == key.public_key()
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime <= LIFETIME + timedelta(hours=1)
    root = x509.load_pem_x509_certificate((tmp_path / "data" / "authority.cer").read_bytes())
    certificate.verify_directly_issued_by(root)


async def test_another_caller_needs_the_worker_s_token(server: Running) -> None:
    [worker] = placed(server)
    _, body = new_request()
    status, refusal = await asked(server, body, worker, source=ELSEWHERE)
    assert (status, json.loads(refusal)["error"]) == (401, "unauthorized")
    status, _ = await asked(server, body, worker, source=ELSEWHERE, token=token_of(server, worker))
    assert status == 200


async def test_a_wrong_token_or_a_wrong_instance_is_refused_from_the_right_address(server: Running) -> None:
    [worker] = placed(server)
    _, body = new_request()
    wrong = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    answers = [
        await asked(server, body, worker, token=wrong),
        await asked(server, body, worker + 1000),
        await asked(server, body, worker + 1000, token=token_of(server, worker)),
    ]
    assert {status for status, _ in answers} == {401}
    assert len({text for _, text in answers}) == 1, "the answer tells which workers there are"


async def test_a_header_does_not_change_where_a_caller_is(server: Running) -> None:
    [worker] = placed(server)
    connector = aiohttp.TCPConnector(local_addr=(ELSEWHERE, 0))
    headers = {"X-Forwarded-For": HERE, "Content-Type": "application/octet-stream"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        url = f"{server.url}/api/v0/sign_cert/?instance_id={worker}"
        async with session.post(url, data=new_request()[1]) as answer:
            assert answer.status == 401


def forged() -> bytes:
    """A request for a key that its sender does not have."""
    _, pem = new_request()
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()


async def test_what_is_no_good_request_is_told_so(server: Running) -> None:
    bad = {
        b"": "must be a certificate signing request in PEM",
        b"\xff" * 100: "must be a certificate signing request in PEM",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n": "signing request in PEM",
        forged(): "is not signed with the key that is in it",
        request(rsa.generate_private_key(public_exponent=65537, key_size=1024)): "RSA with 2048 to 4096 bits",
        request(ec.generate_private_key(ec.SECP521R1())): "P-256 or P-384",
        request(ed25519.Ed25519PrivateKey.generate(), hash_=None): "P-256 or P-384",
        new_request()[1] + b"\n" * 20_000: "must be at most 16384 bytes",
    }
    instance_id = placed(server)[0]
    for body, says in bad.items():
        status, text = await asked(server, body, instance_id)
        answer = json.loads(text)
        assert (status, answer["success"], answer["error"]) == (400, False, "invalid_args")
        assert says in answer["msg"]


async def test_a_malformed_instance_is_told_so(server: Running) -> None:
    for instance_id in ("", "seven", "-1", "7" * 40):
        status, text = await asked(server, new_request()[1], instance_id)
        assert status == 400
        assert json.loads(text)["msg"].startswith("instance_id: must be the number in CONTAINER_ID")


async def test_a_worker_gets_so_many_certificates_and_no_more(server: Running) -> None:
    [worker] = placed(server)
    _, body = new_request()
    assert {(await asked(server, b"junk", worker))[0] for _ in range(MAX_GIVEN + 1)} == {400}  # takes nothing from it
    statuses = [(await asked(server, body, worker))[0] for _ in range(MAX_GIVEN + 1)]
    assert statuses == [200] * MAX_GIVEN + [429]


async def test_a_worker_that_asks_before_its_place_is_known_waits_for_it(server: Running) -> None:
    [worker] = placed(server)
    fleet = server.hub.fleet_named("idle")
    assert fleet is not None
    for row in [w for w in fleet.workers.values() if w.id == worker]:
        fleet.roster.workers[row.id] = replace(row, addresses=frozenset())
    status, _ = await asked(server, new_request()[1], worker)  # the next look at the provider tells
    assert status == 200


# --- the server's own certificate ---


def host(url: str) -> dict[str, Any]:
    hostname, _, port = url.removeprefix("https://").partition(":")
    return {"host": hostname, "port": int(port)}


def listed(url: str) -> list[Any]:
    """The endpoints, as a command on the server's own machine lists them: it finds the key and the root by itself."""
    with connect(url, None) as client:
        return client.endpoints()


async def test_our_client_needs_the_root_of_a_server_that_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POSTHOUSE_CA", raising=False)
    async with live_server(tmp_path / "data", **{"server.tls": "self"}) as server:
        assert server.url.startswith("https://")
        async with AsyncClient(server.url, server.admin_key) as stranger:
            with pytest.raises(Unreachable, match=r"certificate verify failed.*POSTHOUSE_CA can name"):
                await stranger.endpoints()
        async with AsyncClient(server.url, server.admin_key, ca=tmp_path / "data" / "authority.cer") as owner:
            assert await owner.endpoints() == []
        (tmp_path / "data" / ADMIN_KEY_FILE).write_text(server.admin_key)
        monkeypatch.setenv("POSTHOUSE_DATA_DIR", str(tmp_path / "data"))
        assert await asyncio.to_thread(listed, server.url) == []
        strict = ssl.create_default_context(cafile=str(tmp_path / "data" / "authority.cer"))
        strict.verify_flags |= ssl.VERIFY_X509_STRICT
        _, writer = await asyncio.open_connection(**host(server.url), ssl=strict)
        writer.close()
    assert (tmp_path / "data" / "server.pem").stat().st_mode & 0o077 == 0
    assert (tmp_path / "data" / "authority.pem").stat().st_mode & 0o077 == 0


async def test_a_connection_whose_handshake_outlasts_the_server_is_ended(tmp_path: Path) -> None:
    loop, came, goes = asyncio.get_running_loop(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with socket.socket() as caller:
        caller.setblocking(False)
        async with live_server(tmp_path / "data", **{"server.tls": "self"}) as server:
            context = ssl.create_default_context(cafile=str(tmp_path / "data" / "authority.cer"))
            tls = context.wrap_bio(came, goes, server_hostname=HERE)
            await loop.sock_connect(caller, tuple(host(server.url).values()))
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            await loop.sock_sendall(caller, goes.read())
            while not goes.pending:
                came.write(await loop.sock_recv(caller, 65_536))
                with suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
        await loop.sock_sendall(caller, goes.read())  # only now there is a connection
        with suppress(ConnectionResetError):
            async with asyncio.timeout(TIMEOUT_S):
                while await loop.sock_recv(caller, 65_536):
                    pass


async def test_our_agent_serves_https_and_our_client_checks_it_with_the_root_that_the_server_states(
    tmp_path: Path,
) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        await add_endpoint(owner, "llm", AGENT, "-p 3000:3000 -e USE_SSL=true")
        await ready(server, "llm")
        answer = await owner.generate("llm", "Hello", max_new_tokens=5)
        strict = ssl.create_default_context(cafile=str(tmp_path / "data" / "authority.cer"))
        strict.verify_flags |= ssl.VERIFY_X509_STRICT
        _, writer = await asyncio.open_connection(**host(answer.worker_url), ssl=strict)
        writer.close()
    assert (answer.status, answer.worker_url[:8]) == (200, "https://")


async def test_a_renewed_certificate_is_shown_to_who_comes_next_and_disturbs_nobody(tmp_path: Path) -> None:
    now, file = time.time(), tmp_path / "server.pem"
    made_at = now - RENEWED_AFTER.total_seconds()
    authority = Authority(tmp_path / "authority.pem", made_at)
    authority.renew(file, {HERE}, made_at, begin=True)
    shown = ServerCertificate(file, file)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    context = ssl.create_default_context(cafile=str(tmp_path / "authority.cer"))
    async with await asyncio.start_server(echo, HERE, 0, ssl=shown.context) as listening:
        port = listening.sockets[0].getsockname()[1]

        async def certificate() -> bytes:
            """What somebody is shown who comes now."""
            _, writer = await asyncio.open_connection(HERE, port, ssl=context)
            writer.close()
            await writer.wait_closed()
            return bytes(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))

        reader, writer = await asyncio.open_connection(HERE, port, ssl=context)
        first = await certificate()
        authority.renew(file, {HERE}, now - 1)
        shown.reload_if_changed()
        assert await certificate() == first, "it was not old yet"
        authority.renew(file, {HERE}, now)
        shown.reload_if_changed()
        renewed = await certificate()
        assert renewed != first
        file.write_text("half a certific")
        with pytest.raises(Refused, match="are not a certificate and its open key"):
            shown.reload_if_changed()
        shown.reload_if_changed()  # said once
        assert await certificate() == renewed
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.close()
        await writer.wait_closed()


async def test_a_server_shows_the_certificate_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    authority = Authority(tmp_path / "elsewhere" / "authority.pem", time.time())
    authority.renew(given := tmp_path / "given.pem", {HERE}, time.time(), begin=True)
    files = {"server.tls": "files", "server.tls_certificate": str(given), "server.tls_key": str(given)}
    root = tmp_path / "elsewhere" / "authority.cer"
    async with (
        live_server(tmp_path / "data", **files) as server,
        AsyncClient(server.url, server.admin_key, ca=root) as owner,
    ):
        assert await owner.endpoints() == []


async def test_files_that_cannot_be_used_are_named_before_the_server_begins(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for chain, says in ((tmp_path / "absent", "No such file"), (tmp_path / "empty", "are not a certificate")):
        files = {"server.tls": "files", "server.tls_certificate": str(chain), "server.tls_key": str(chain)}
        with pytest.raises(Refused, match=rf"server\.tls: .*{says}"):
            async with live_server(tmp_path / "data", **files):
                pass


# --- our agent ---


async def test_the_agent_asks_again_until_it_is_given_a_certificate_of_its_own_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority.pem", time.time())

    def signed(body: bytes) -> web.Response:
        return web.Response(body=authority.sign_request(body, "worker 7", {HERE}, time.time()))

    answers = [
        lambda body: web.json_response({"success": False, "msg": "ask again"}, status=429),
        lambda body: web.json_response({"success": True}),
        lambda body: signed(new_request()[1]),
        signed,
    ]
    asked: list[str] = []

    async def sign_cert(call: web.Request) -> web.Response:
        asked.append(call.path_qs)
        return answers[len(asked) - 1](await call.read())

    app = web.Application()
    app.router.add_post("/w/secret/sign_cert/", sign_cert)
    port = free_port()
    settings = AgentSettings(
        upstream="http://127.0.0.1:1",
        worker_id=7,
        report_addrs=(f"http://{HERE}:{port}/w/secret",),
        url=f"https://{HERE}:1",
        listen_host=HERE,
        listen_port=1,
        tls=True,
    )
    async with listening(app, port), aiohttp.ClientSession() as session:
        certificate = Certificate(session, settings)
        await certificate.get(retry_s=0)
    assert asked == ["/w/secret/sign_cert/?instance_id=7"] * len(answers)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "authority.cer"))
    async with await asyncio.start_server(lambda _, writer: writer.close(), HERE, 0, ssl=certificate.context) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=trusting)
        writer.close()
        await writer.wait_closed()
