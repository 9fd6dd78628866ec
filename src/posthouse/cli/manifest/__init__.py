"""Manifests: a file in YAML that describes an endpoint whole, for `posthouse apply`."""

from posthouse.cli.manifest.describe import Manifest, manifests
from posthouse.cli.manifest.plan import Change, Found, Plan, plan
from posthouse.cli.manifest.schema import schema
from posthouse.cli.manifest.write import described, dumped

__all__ = ["Change", "Found", "Manifest", "Plan", "described", "dumped", "manifests", "plan", "schema"]
