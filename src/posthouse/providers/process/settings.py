"""What the table of a provider of type `process` may say."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from posthouse.config import ProviderSettings
from posthouse.providers.process.launch import Bounds


class WorkerSettings(ProviderSettings):
    """What a worker may have that is a process."""

    memory_gb: float = Field(0.0, ge=0, le=1e6, description="Most memory per worker, in GB; 0: no limit.")
    max_file_gb: float = Field(500.0, gt=0, le=1e6, description="Longest file that a worker may write, in GB.")
    max_disk_gb: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Most that one worker's files may take, in GB, or it is ended; 0: any, but for those who take more "
        "than their template's `disk_gb` when less than `min_free_gb` is free.",
    )
    max_processes: int = Field(
        32_768,
        ge=64,
        le=4_194_304,
        description="Most processes and threads of the user whom workers run as, by their own counting; root has none.",
    )
    min_free_gb: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="With less of the disk free no worker is made or started, in GB; 5 % of a disk that is small.",
    )
    grace_s: float = Field(
        10.0, ge=0, le=600, description="Time that a worker has to end by itself before it is killed, in seconds."
    )

    def bounds(self, hidden: Path | None) -> Bounds:
        """The same without `grace_s`. `hidden`: what a worker must not read."""
        return Bounds(
            self.memory_gb or None, self.max_file_gb, self.max_disk_gb, self.min_free_gb, self.max_processes, hidden
        )


class ProcessSettings(WorkerSettings):
    """Workers as processes on this machine."""

    poll_s: float = Field(2.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(2.0, ge=0.05, le=86_400, description="Time between two looks for free slots, in seconds.")
    directory: Path | None = Field(
        None,
        description="Folder of its workers; servers of one machine that share a database name the same. Default: "
        "`workers` in the data directory.",
    )
    slots: int = Field(
        0, ge=0, le=1000, description="Most workers on this machine; 0: one per GPU, or four per CPU core."
    )
    wall: Literal["auto", "off"] = Field(
        "auto",
        description="`auto`: workers cannot read the data directory, look into other processes or send them signals, "
        "where this system has Landlock (Linux 5.19), and cannot become another user. `off`: they run as the server "
        "does.",
    )
    users: str = Field(
        "auto",
        pattern=r"^(auto|server|[0-9]{1,10}-[0-9]{1,10})$",
        description="Whom workers run as. `60706-61183`: each has a user id of its own from there, where the server is "
        "root. `server`: the server's user. `auto`: the server's user where the wall hides the data directory from it "
        "or the server is not root, else as `60706-61183`.",
    )
    ready_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a ready worker, in US dollars per hour.")
    loading_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a loading worker, in US dollars per hour.")
    stopped_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a stopped worker, in US dollars per hour.")
