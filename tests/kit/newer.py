"""A newer version of Posthouse: this one, with a migration to make before its rollout and one for after it."""

import re
import shutil
from pathlib import Path

from posthouse.store.schema import VERSION

BEFORE, AFTER = "9001_before", "9002_after"
MIGRATIONS = {
    BEFORE: """
    op.add_column("endpoints", sa.Column("region", sa.String, nullable=False, server_default=""))
    op.create_table("regions", sa.Column("name", sa.String, primary_key=True))
    op.execute("INSERT INTO regions (name) SELECT DISTINCT region FROM endpoints")
    op.create_index("ix_workers_state", "workers", ["state"])
""",
    AFTER: """
    op.create_index("ix_endpoints_region", "endpoints", ["region"])
""",
}


def newer_version(folder: Path) -> Path:
    """What PYTHONPATH must name for it."""
    source = Path(__file__).parents[2] / "src" / "posthouse"
    made = shutil.copytree(source, folder / "posthouse", ignore=shutil.ignore_patterns("__pycache__", "bundle"))
    down = VERSION
    for name, does in MIGRATIONS.items():
        text = f'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "{name}"\ndown_revision = "{down}"\n'
        text += f"after = {name == AFTER}\n\n\ndef upgrade() -> None:{does}"
        (made / "store" / "migrations" / "versions" / f"{name}.py").write_text(text)
        down = name
    schema = made / "store" / "schema.py"
    schema.write_text(re.sub('(?m)^VERSION = ".*"$', f'VERSION = "{AFTER}"', schema.read_text()))
    return folder
