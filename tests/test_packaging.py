"""Contents of the wheel, and install instructions."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, version

import yaml
from conftest import ROOT


def tracked(*patterns: str) -> list[str]:
    """Files tracked by git, relative to the checkout."""
    return subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_wheel_contains_exactly_the_files_of_the_package(tmp_path):
    for name in tracked():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    result = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    with zipfile.ZipFile(tmp_path / result.stdout.split()[-1]) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        facts = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    assert files == set(tracked("residual_st"))
    assert "\nLicense: MIT\n" in facts and "\nDescription-Content-Type: text/markdown\n" in facts


def test_version_is_defined_once():
    written = re.search(r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert version("residual-st") == written
    sources = [name for name in tracked("*.py", "*.toml", "Makefile", ".ci") if f'"{written}"' in (ROOT / name).read_text()]
    assert sources == ["pyproject.toml"]  # and the citations, which are tested below


def test_install_instructions_do_not_depend_on_a_release():
    """Pages install this package from a checkout. Messages name dependencies, never an extra of this package."""
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked("*.md", "*.py", "*.sh")}
    instructions = [(name, place) for name, text in pages.items() for place in re.findall(r"(..)residual-st\[", text)]
    assert instructions and {place for _, place in instructions} == {"./"}, instructions
    extras = [line for line in metadata("residual-st").get_all("Requires-Dist") if line.startswith("residual")]
    assert not extras, "errors.missing_package would name this package, which is on no index"


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == version("residual-st")
    assert f"version = {{{citation['version']}}}" in (ROOT / "docs" / "citation.md").read_text()
    assert citation["references"][0]["url"] in (ROOT / "pyproject.toml").read_text()


def test_release_needs_a_clean_tagged_checkout(tmp_path):
    (tmp_path / ".venv").mkdir()
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt", ".ci/install"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".gitignore").write_text(".venv\n")
    (tmp_path / ".venv" / ".ready").touch()

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    def refusal() -> str:
        result = subprocess.run(["make", "release"], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode, result.stdout
        return result.stderr

    git("init", "-q")
    assert "not committed" in refusal()
    git("add", ".")
    git("commit", "-qm", "all")
    git("tag", "v0.0.1")
    assert f"must have the tag v{version('residual-st')}" in refusal()
