"""Rows as a store takes them, with plain values."""

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId, WorkergroupId
from posthouse.domain.offer import Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.ports import JournalEntry, Store
from posthouse.template import Template, Workergroup
from tests.kit.postgres import database_url

NO_ID: Any = 0
ON_POSTGRES = os.environ.get("POSTHOUSE_TEST_DATABASE") == "postgresql"
"""Whether servers that tests start, and stores of directories, are on PostgreSQL."""
needs_file = pytest.mark.skipif(ON_POSTGRES, reason="it reads or replaces the file of the database")


def store_url(directory: Path) -> str:
    """Of a store for a directory."""
    if ON_POSTGRES:
        return database_url(f"d{zlib.crc32(bytes(directory.absolute())):x}")
    return sqlite_url(directory / "posthouse.db")


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def worker(worker_id: int, endpoint_id: int = 1, **changes: Any) -> Worker:
    plain = Worker(
        id=WorkerId(worker_id),
        endpoint_id=EndpointId(endpoint_id),
        group_id=WorkergroupId(1),
        label=f"posthouse-x-{worker_id}",
        provider="process",
        offer_id="cpu",
        machine="localhost",
        gpu_name="",
        num_gpus=0,
        price=Price(),
        created_at=1.0,
    )
    return replace(plain, **changes)


def entry(number: int, endpoint_id: int = 1) -> JournalEntry:
    return JournalEntry(EndpointId(endpoint_id), float(number), {"number": number})


async def add_group(store: Store, name: str = "llm") -> Workergroup:
    endpoint = await store.add_endpoint(Endpoint(NO_ID, name))
    template = await store.add_template(Template(NO_ID, f"hash of {name}", name))
    return await store.add_workergroup(Workergroup(NO_ID, endpoint.id, template.id))
