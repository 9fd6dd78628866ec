"""Builds the documentation's site: `python docs/site.py [--out site]`, or `make site`.

The pages are written so that they can be read on a forge, where a link may lead anywhere in the repository. The site
has the pages alone, so they are copied beside each other, and links to anything else become links to the forge.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_URL = "https://github.com/posthouse/posthouse/blob/main/"
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "GLOSSARY.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def on_site(path: Path) -> bool:
    """Whether the site has the file at this path of the repository."""
    return (path.parts[0] == "docs" and path.suffix in {".md", ".png", ".webp"}) or str(path) in (*PAGES, "README.md")


def linked(text: str, page: Path) -> str:
    """The page's text, with links out of the site led to the forge. Raises: FileNotFoundError for a link to nothing."""

    def led(link: re.Match[str]) -> str:
        target = (ROOT / page.parent / link[2]).resolve()
        path = target.relative_to(ROOT)
        if not target.exists():
            raise FileNotFoundError(f"{page}: {link[2]}")
        if target.is_dir() and (target / "README.md").exists() and path.parts[0] == "docs":
            return f"{link[1]}{link[2].rstrip('/')}/README.md{link[3] or ''}{link[4]}"
        return link[0] if on_site(path) else f"{link[1]}{SOURCE_URL}{path}{link[3] or ''}{link[4]}"

    return _LINK.sub(led, text)


def stage(into: Path) -> None:
    """Lays the pages and pictures below `into`, at the paths that they have in the repository."""
    files = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*")]
    for path in (*files, *(Path(page) for page in PAGES), Path("README.md")):
        if not on_site(path):
            continue
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(linked((ROOT / path).read_text(encoding="utf-8"), path), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / path, target)


def main() -> int:
    options = argparse.ArgumentParser(description="Builds the documentation's site.")
    options.add_argument("--out", type=Path, default=ROOT / "site", help="folder for the site")
    out = options.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        stage(pages)
        config = Path(folder) / "mkdocs.yml"
        config.write_text((ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", out]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - our own words


if __name__ == "__main__":
    sys.exit(main())
