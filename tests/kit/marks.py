"""Marks that tests of several folders share."""

from typing import Any

import pytest


def long(*values: object) -> Any:
    """Parameters of a test that `make test` leaves to `make test-long`, because they take long."""
    return pytest.param(*values, marks=pytest.mark.long)
