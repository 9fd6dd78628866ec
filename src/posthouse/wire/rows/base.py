"""What all rows have in common."""

from typing import Any, ClassVar


class Row:
    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True}
    """The docstrings of the fields are the descriptions in the OpenAPI document."""


# -- the protocol's calls ----------------------------------------------------------------------------------------------
