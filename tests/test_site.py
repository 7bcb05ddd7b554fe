"""The documentation site is built without warnings, contains all pages, and loads nothing from other hosts."""

import importlib.util
import os
import re

import pytest
from conftest import BIN, ROOT, run

from residual_st.cli import SUBCOMMANDS

REPOSITORY = "https://code.test/residual-st"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("residual_st.huggingface")  # the site has a reference page of them
    folder = tmp_path_factory.mktemp("site")
    environment = {name: value for name, value in os.environ.items() if name != "REPO_URL"}
    run(BIN / "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT, env=environment)
    return folder


def test_reference_contains_every_command_and_public_name(site):
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


def test_links_point_to_existing_pages(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="compression/["#]', home) and 'src="sharing.svg"' in home
    quality = (site / "results" / "quality" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../quality/' in quality


def test_without_a_repository_url_files_are_named_and_not_linked(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "md-source" not in home
    assert "a notebook that does it all (<code>examples/tour.ipynb</code>)" in home
    assert "<code>benchmarks/quality.yaml</code>" in (site / "quality" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[rows](../benchmarks/quality.yaml#L3)", f"[rows]({REPOSITORY}/blob/main/benchmarks/quality.yaml#L3)"),
        ("[speed](speed.md#composing-or-not)", "[speed](speed.md#composing-or-not)"),
        ("[recipe](../examples/must_c/README.md)", "[recipe](must_c.md)"),
        ("![sharing](sharing.svg)", "![sharing](sharing.svg)"),
        ("[no such file](../gone.py)", "[no such file](../gone.py)"),
    ],
)
def test_with_a_repository_url_files_are_linked(link, expected):
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    site_pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site_pages)
    assert site_pages.site_link(site_pages.LINK.match(link), "docs/quality.md", "quality.md", REPOSITORY) == expected


def test_no_page_loads_anything_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe|source)[^>]* src="?(\S+?)["\s>]|<link (?![^>]*canonical)[^>]*href="?(\S+?)["\s>]', text
        )
        assert not [link for pair in loaded for link in pair if link.startswith(("http:", "https:", "//"))], page
