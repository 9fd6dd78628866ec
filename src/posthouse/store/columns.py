"""Kinds of column that are the same on every database."""

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


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


class OwnSchema(FunctionElement[str]):
    """What a server's connection to PostgreSQL says of its schema; nothing in a file, which has one server."""

    type = sa.String()
    inherit_cache = True


@compiles(OwnSchema)
def _nothing(element: OwnSchema, compiler: Any, **options: Any) -> str:
    return "''"


@compiles(OwnSchema, "postgresql")
def _named(element: OwnSchema, compiler: Any, **options: Any) -> str:
    return "current_setting('application_name')"
