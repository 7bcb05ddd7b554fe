"""The documentation as a site: it is built without a warning, has the pages that are made, and asks nothing of other hosts."""

import os
import re

import pytest
from conftest import BIN, ROOT, run

from residual_st.cli import SUBCOMMANDS

REPOSITORY = "https://code.test/residual-st"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("residual_st.huggingface")  # whose reference is a page
    folder = tmp_path_factory.mktemp("site")
    run(BIN / "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT, env={**os.environ, "REPO_URL": REPOSITORY})
    return folder


def test_the_reference_has_every_command_and_public_names(site):
    commands = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    for name in SUBCOMMANDS:
        assert f"usage: residual-st {name}" in commands
    for page, names in {
        "sharing": ["share_layers", "SharingPlan"],
        "runtime": ["Translator", "Settings"],
        "errors": ["InputError"],
    }.items():
        text = (site / "reference" / page / "index.html").read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf'<h2 id="residual_st\.{page}[\w.]*\.{name}"', text), name


def test_links_lead_to_pages_or_to_the_repository(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="compression/["#]', home) and 'src="sharing.svg"' in home
    quality = (site / "results" / "quality" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../quality/' in quality
    assert f"{REPOSITORY}/blob/main/benchmarks/quality.yaml" in (site / "quality" / "index.html").read_text(encoding="utf-8")


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe|source)[^>]* src="?(\S+?)["\s>]|<link (?![^>]*canonical)[^>]*href="?(\S+?)["\s>]', text
        )
        assert not [link for pair in loaded for link in pair if link.startswith(("http:", "https:", "//"))], page
