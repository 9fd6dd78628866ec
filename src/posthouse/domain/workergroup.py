"""Names of a workergroup and of its template. What they are, only those need who make workers: `posthouse.template`."""

from typing import NewType

TemplateId = NewType("TemplateId", int)
WorkergroupId = NewType("WorkergroupId", int)
