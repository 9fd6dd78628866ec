"""What the table of a provider of type `ssh` may say."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from posthouse.config import Section
from posthouse.providers.process.settings import WorkerSettings


def _ports(text: str) -> str:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not found or not 0 < int(found[1]) < int(found[2]) < 65_536:
        raise ValueError("should be the first and the last port, such as 20000-31999")
    return text


class Host(Section):
    """One box, a table of `hosts`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="What it is called here.")
    address: str = Field(pattern=r"^[A-Za-z0-9.:_-]+$", description="Host name or IP address of its sshd.")
    port: int = Field(22, ge=1, le=65_535, description="Port of its sshd.")
    user: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="User to log in as. Workers run as this user.")
    key_file: Path = Field(description="Private key to log in with, without a passphrase.")
    host_key: str = Field(
        "",
        pattern=r"^(SHA256:[A-Za-z0-9+/]{43})?$",
        description="Fingerprint of the box's own ed25519 key, such as `SHA256:...`, as `ssh-keygen -lf` shows it "
        "there (of its ECDSA or RSA key, if it has no other); empty: `known_hosts` has the key.",
    )
    known_hosts: Path = Field(
        Path("~/.ssh/known_hosts"), description="File of known host keys, used without `host_key`."
    )
    dir: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="Directory on the box for all that is put there; default: `.posthouse` in the user's home.",
    )
    python: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="A Python on the box that has this version of `posthouse[server]`, for a box with another kind of "
        "processor than the server; default: the server's own Python is put there.",
    )
    engine: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="Socket of a Docker or podman engine on the box, such as `/var/run/docker.sock`, which `user` may "
        "use: workers are its containers then, as with the provider `docker`, and `gpus` says how many GPUs they are "
        "given. Default: workers are processes.",
    )
    image: str = Field("", description="With `engine`, the image of the workers whose template names none.")
    public_address: str = Field(
        "",
        pattern=r"^[A-Za-z0-9.:_-]*$",
        description="Address at which clients reach its workers; default: `address`, with `forward` 127.0.0.1.",
    )
    ports: Annotated[str, AfterValidator(_ports)] = Field(
        "20000-31999", description="Ports that workers are given, first and last, the same ones inside and outside."
    )
    forward: bool = Field(
        False,
        description="Whether its workers are reached through this server, which listens on their ports and passes on "
        "what comes by ssh: for a box whose ports cannot be reached. With `public_address` it listens on every "
        "address, else on 127.0.0.1.",
    )
    drain: bool = Field(False, description="Whether it is given no new workers, as before it is taken away.")
    slots: int = Field(0, ge=0, le=1000, description="Most workers at once; 0: one per GPU, or four per CPU core.")
    gpus: int = Field(0, ge=0, le=64, description="Number of its GPUs; 0: what `nvidia-smi` finds there.")
    gpu_name: str = Field("GPU", min_length=1, description="Their name, with `gpus`, such as `RTX 4090`.")
    gpu_ram_gb: float = Field(0.0, ge=0, le=10_000, description="Memory of each GPU, with `gpus`, in GB.")
    ready_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a ready worker, in US dollars per hour.")
    loading_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a loading worker, in US dollars per hour.")
    stopped_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a stopped worker, in US dollars per hour.")

    @property
    def reached_at(self) -> str:
        """Where clients reach its workers."""
        return self.public_address or ("127.0.0.1" if self.forward else self.address)


class SshSettings(WorkerSettings):
    """Workers as processes on machines of one's own that are reached by ssh."""

    poll_s: float = Field(5.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(5.0, ge=0.05, le=86_400, description="Time between two looks for free slots, in seconds.")
    hosts: list[Host] = Field(min_length=1, max_length=200, description="The boxes, each a table.")
    wall: Literal["auto", "off"] = Field(
        "auto",
        description="`auto`: workers cannot read each other's files, look into other processes or send them signals, "
        "where the box has Landlock (Linux 5.19), and cannot become another user. `off`: they can.",
    )
    users: str = Field(
        "auto",
        pattern=r"^(auto|server|[0-9]{1,10}-[0-9]{1,10})$",
        description="Whom workers run as. `60706-61183`: each has a user id of its own from there, where one logs in "
        "as root. `server`: the user who logs in. `auto`: the latter where the wall is there or it is not root, else "
        "as `60706-61183`.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [host.name for host in self.hosts]
        if len(set(names)) < len(names):
            raise ValueError("hosts: two have the same name")
        return self
