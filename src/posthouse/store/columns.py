"""Kinds of column that are the same on every database."""

import json
from typing import Any

import sqlalchemy as sa


class _JsonText(sa.TypeDecorator[Any]):
    """JSON as text: a database that reads it itself refuses an infinite number."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return json.dumps(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return json.loads(value)


# SQLite numbers rows by themselves in a column of the type INTEGER alone, which holds 8 bytes there.
Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(_JsonText(), "postgresql")
