"""The protocol's calls about secrets: environment variables that every new instance is given."""

from fastapi import FastAPI

from posthouse.engine.management import Management
from posthouse.engine.management.inputs import Secret, SecretName
from posthouse.server.api.replies import Message, Secrets
from posthouse.server.middleware import Caller


def add_secret_routes(app: FastAPI, management: Management) -> None:
    secrets = management.secrets

    @app.get("/api/v0/secrets")
    async def list_secrets(caller: Caller) -> Secrets:
        """Every secret with its value. They are given to workers, so anyone who may make a template may know them."""
        return Secrets(secrets=secrets.plain(caller.account_id))

    @app.post("/api/v0/secrets")
    async def create_secret(new: Secret, caller: Caller) -> Message:
        """Makes a secret from `key`, its name, and `value`. Instances made from now on have it in their environment,
        where their template sets no variable of that name."""
        await secrets.create(new, caller.account_id)
        return Message(msg=f"{new.key} was created; instances made from now on have it")

    @app.put("/api/v0/secrets")
    async def update_secret(changed: Secret, caller: Caller) -> Message:
        """Gives the secret `key` another `value`. Instances that are there keep what they were made with."""
        await secrets.update(changed, caller.account_id)
        return Message(msg=f"{changed.key} was updated; instances made from now on have the new value")

    @app.delete("/api/v0/secrets")
    async def delete_secret(named: SecretName, caller: Caller) -> Message:
        """Deletes the secret `key`. Instances that are there keep what they were made with."""
        await secrets.delete(named.key, caller.account_id)
        return Message(msg=f"{named.key} was deleted; instances made from now on do not have it")
