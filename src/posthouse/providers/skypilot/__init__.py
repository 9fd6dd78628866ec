"""Workers as clusters of SkyPilot, through its API server: whatever cloud it can rent from.

A cluster has one machine and the worker's label for its name. That is SkyPilot's own key: a launch of the same name is
the same cluster. Nothing of SkyPilot is imported.
"""

from posthouse.providers.skypilot.provider import SkypilotProvider

__all__ = ["SkypilotProvider"]
