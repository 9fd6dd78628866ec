"""Workers as instances of the GPU market Vast.ai, by its REST API.

An instance carries the worker's label. Renting is not idempotent there: so each label is looked for before it is rented
for, and a rental without an answer is settled by the list of instances, never by renting again.
"""

from posthouse.providers.vast.provider import VastProvider

__all__ = ["VastProvider"]
