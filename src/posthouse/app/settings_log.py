"""Records in the audit log which settings have changed since the last start: money depends on them."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from posthouse.audit import Act, ActFilter, texts
from posthouse.config import Settings, known_settings, shown, value_of
from posthouse.ports import Store

ACTION = "settings.update"
REMEMBERED = 1000
"""Most earlier changes that are read."""


async def note_settings(store: Store, settings: Settings) -> None:
    """Records which settings differ from those of the last start; at the first start, from the defaults."""
    known = known_settings({name: type(provider) for name, provider in settings.providers.items()})
    before = {name: _plain(shown(field, field.default)) for name, field in known.items() if not _computed(field)}
    for act in reversed(await store.acts(ActFilter(action=ACTION, limit=REMEMBERED))):
        before |= json.loads(act.after)
    now = {name: _plain(shown(field, value_of(settings, name))) for name, field in known.items()}
    now = json.loads(texts({**dict.fromkeys(before), **now}))
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        was, is_ = ({name: values.get(name) for name in changed} for values in (before, now))
        await store.note(Act(ACTION, "server", before=was, after=is_))


def _computed(field: FieldInfo) -> bool:
    """Whether there is no default, or it follows from other settings."""
    return field.is_required() or field.default_factory is not None


def _plain(value: Any) -> Any:
    """A value as data for JSON, also inside of it without what nobody may see."""
    if isinstance(value, BaseModel):
        return {name: _plain(shown(field, getattr(value, name))) for name, field in type(value).model_fields.items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return to_jsonable_python(value, fallback=str)
