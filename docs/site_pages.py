"""Hooks of the site (mkdocs.yml): pages that are made, and links that work in the repository and in the site.

Pages link to each other and to scripts as files of the repository, as code hosts show them. Here a link to a file that is a page
of the site becomes a link to that page. A link to any other file becomes a link to the public repository, or, if there is none, the
name of the file.
"""

import argparse
import importlib
import inspect
import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# pages of the site that lie elsewhere in the repository
ELSEWHERE = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/must_c/README.md": "must_c.md",
}
# page of the reference -> the package whose __all__ it describes
PACKAGES = ("sharing", "stacks", "compression", "huggingface", "runtime", "streaming")
# what is public of modules that have no __all__
OBJECTS = {
    "fairseq": (
        "residual_st.fairseq.s2t_residual_transformer.S2TResidualTransformerModel",
        "residual_st.fairseq.hub.S2TResidualHubInterface",
        "residual_st.fairseq.conversion",
        "residual_st.fairseq.averaging",
    ),
    "errors": ("residual_st.errors.InputError", "residual_st.errors.refusing"),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config):
    """Add the pages of full results to the last part of the navigation."""
    config.nav[-1]["Benchmarks"] += sorted(f"results/{path.name}" for path in (ROOT / "docs" / "results").glob("*.md"))
    return config


def on_files(files, config):
    """Add the pages that are made."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in ELSEWHERE.items()}
    pages["reference/commands.md"] = commands_page()
    pages |= {f"reference/{name}.md": package_page(f"residual_st.{name}") for name in PACKAGES}
    pages |= {f"reference/{name}.md": objects_page(f"residual_st.{name}", objects) for name, objects in OBJECTS.items()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as the site needs them."""
    uri = page.file.src_uri
    sources = {made: source for source, made in ELSEWHERE.items()}
    source = sources.get(uri, f"docs/{uri}")
    return LINK.sub(lambda link: site_link(link, source, uri, config.repo_url), markdown)


def site_link(link: re.Match, source: str, page: str, repository: str | None) -> str:
    """A link in a file of the repository, rewritten for the page that the site makes of this file."""
    image, text, address = link.groups()
    path, anchor, name = address.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not path or ":" in path or not (ROOT / target).exists():
        return link[0]  # what does not exist is left for mkdocs to report
    if target in ELSEWHERE or target.startswith("docs/"):
        made = posixpath.relpath(ELSEWHERE.get(target, target.removeprefix("docs/")), posixpath.dirname(page) or ".")
    elif repository:
        made = f"{repository}/blob/main/{target}"
    else:
        return f"`{target}`" if text == target else f"{text} (`{target}`)"
    return f"{image}[{text}]({made}{anchor}{name})"


def package_page(package: str) -> str:
    """The classes and functions of a package's `__all__`, each from the module that defines it."""
    module = importlib.import_module(package)
    offered = (getattr(module, name) for name in module.__all__)
    described = [each for each in offered if inspect.isfunction(each) or inspect.isclass(each)]
    return objects_page(package, [f"{each.__module__}.{each.__name__}" for each in described])


def objects_page(module: str, objects) -> str:
    """The docstring of a module, then those of objects."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return "\n\n".join([f"# {module}", text, *(f"::: {name}" for name in objects)]) + "\n"


def commands_page() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "100"  # argparse wraps its text there
    from residual_st.cli import make_parser

    text = ["# Every flag", "What `residual-st COMMAND --help` prints. [Commands](../commands.md) says what each is for."]
    return "\n\n".join([*text, *helps(make_parser())]) + "\n"


def helps(parser: argparse.ArgumentParser):
    """The help of each subcommand, down to those of subcommands."""
    for action in parser._subparsers._group_actions if parser._subparsers else ():
        for inner in action.choices.values():
            yield f"## {inner.prog.removeprefix('residual-st ')}\n\n```text\n{inner.format_help().rstrip()}\n```"
            yield from helps(inner)
