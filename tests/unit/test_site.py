"""The documentation's site: which links lead where."""

from pathlib import Path

import pytest
from docs.site import SOURCE_URL, linked, on_site, stage


def test_a_link_to_a_page_stays_and_a_link_to_anything_else_leads_to_the_forge() -> None:
    page = Path("docs/start.md")
    kept = "[a](guides/operating.md#keys) [b](../GLOSSARY.md) [c](images/demo.png) [d](https://example.com) [e](#here)"
    assert linked(kept, page) == kept
    assert linked("[m](../Makefile)", page) == f"[m]({SOURCE_URL}Makefile)"
    assert linked("[t](../tests/unit#x)", page) == f"[t]({SOURCE_URL}tests/unit#x)"


def test_a_link_to_nothing_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/start\.md: guides/nothing\.md"):
        linked("[n](guides/nothing.md)", Path("docs/start.md"))


def test_every_page_is_laid_out_with_its_pictures(tmp_path: Path) -> None:
    stage(tmp_path)
    assert (tmp_path / "README.md").exists()
    pages = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert Path("docs/images/demo.png") in pages
    assert all(on_site(page) for page in pages)
