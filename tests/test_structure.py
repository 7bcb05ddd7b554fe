"""The direction of imports in the package, read from its source.

Modules that are looked up by name at run time (`stacks.stack_of`, the user dir's `register`) are no imports.
"""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "residual_st"
# folders and files of the package: each row imports from the rows above it alone, and from itself
ROWS = [
    ["errors"],
    ["files", "languages", "numbers", "pieces", "printing", "progress", "wrapping"],
    ["audio", "sharing"],
    ["compat", "runtime"],
    ["streaming"],
    ["stacks", "web"],
    ["compression"],
    ["fairseq"],
    ["evaluation", "huggingface", "models"],
    ["export", "report"],
    ["benchmark", "simulstream"],
    ["cli"],
    ["__main__"],
]
WITHOUT = {
    "sharing": {"fairseq", "transformers"},
    "stacks": {"fairseq", "transformers"},
    "compression": {"fairseq", "transformers"},
    "audio": {"torch", "fairseq", "transformers"},
    "runtime": {"torch", "fairseq", "transformers"},
    "streaming": {"torch", "fairseq", "transformers"},
    "web": {"torch", "fairseq", "transformers"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, in functions too; of a package's submodule that submodule alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            found |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
    return found


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def place(module: str) -> str:
    """The folder or file at the top of the package that a module is in."""
    return module.split(".")[1]


def test_imports_point_one_way():
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    for module in FILES.keys() - {"residual_st"}:
        for imported in (name for name in IMPORTS[module] if name.startswith("residual_st.")):
            own, other = place(module), place(imported)
            assert own == other or row_of[other] < row_of[own], f"{module} imports {imported}"


def test_no_modules_import_one_another():
    """Neither at their top nor in functions, where such an import is put to hide a circle."""
    graph = {module: {name for name in imported if name in FILES} - {module} for module, imported in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another: {' <- '.join(error.args[1])}")


def test_the_core_needs_torch_alone_and_the_device_needs_no_torch():
    for module, imported in IMPORTS.items():
        if module != "residual_st":
            libraries = {name.partition(".")[0] for name in imported}
            assert not libraries & WITHOUT.get(place(module), set()), module


def test_experiments_import_the_package_and_never_the_other_way():
    experiments = {path.stem for path in (ROOT / "benchmarks").iterdir()} | {"benchmarks", "tests", "examples"}
    for module, imported in IMPORTS.items():
        assert not experiments & {name.partition(".")[0] for name in imported}, module


@pytest.mark.parametrize("layers", ["transformer_layers", "conformer_layers"])
def test_one_file_knows_what_a_kind_calls_its_layers(layers):
    files = [module for module, path in FILES.items() if layers in path.read_text(encoding="utf-8")]
    assert len(files) == 1 and files[0].startswith("residual_st.fairseq.kinds."), files


def test_files_of_tests_have_names_of_their_own():
    """pytest takes two files of one name for one module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
