"""Links in Markdown pages are valid, and tables match the committed results."""

import re
import sys

import pytest
from conftest import ROOT

from residual_st.benchmark import results

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "must_c" / "README.md",
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SIGNIFICANCE = {"quality_seeds", "quality_continued", "quality_once", "sanity", "headline"}  # needs paired tests that take minutes


@pytest.fixture(scope="module")
def readme():
    """benchmarks/readme.py"""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield pytest.importorskip("readme")
    sys.path.remove(str(ROOT / "benchmarks"))


def prose_of(page) -> str:
    """The page without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_point_to_existing_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors_of(linked), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_match_the_committed_results(page, readme, monkeypatch):
    """Except for the bounds of intervals, whose resampling takes minutes."""
    monkeypatch.setattr("residual_st.evaluation.scores.RESAMPLES", 1)
    text = page.read_text(encoding="utf-8")
    for name in readme.tables_in(text):
        if name not in SIGNIFICANCE:
            assert without_bounds(readme.filled(text, name)) == without_bounds(text), f"python benchmarks/readme.py {name}"


def without_bounds(text: str) -> str:
    return re.sub(r" {2,}|-{2,}", " ", re.sub(r"\([-+\d.]+ to [-+\d.]+\)", "", text))


def test_every_system_has_a_readable_name(readme):
    from tables.names import reader_name

    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        if path.stem.startswith("faults"):
            continue  # systems are commands and files there
        systems = {re.sub(r"-\d(\.\d)?e-\d$", "", row["system"]) for row in results.read(path) if "system" in row}
        names = {reader_name(system) for system in systems}
        assert len(names) == len(systems), f"{path.name}: two systems have one name"
        ids = [name for name in names if re.search(r"taught|-ends|\bk\d|-r\d|[a-z]-0\.\d", name)]
        assert not ids, f"{path.name}: {ids} are not for readers"
