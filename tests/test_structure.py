"""The direction of imports in the package, parsed from its source.

Modules that are imported by name at run time (`stacks.stack_of`, the user dir's `register`) do not count.
"""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "residual_st"
# folders and files of the package: each imports only from rows above it and from itself
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
    """All modules that a file imports, including inside functions. Of a submodule only the submodule, not its package."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            modules |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
    return modules


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def place(module: str) -> str:
    """The top-level folder or file of the package that contains a module."""
    return module.split(".")[1]


def test_imports_point_in_one_direction():
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    for module in FILES.keys() - {"residual_st"}:
        for imported in (name for name in IMPORTS[module] if name.startswith("residual_st.")):
            importer, imported_part = place(module), place(imported)
            assert importer == imported_part or row_of[imported_part] < row_of[importer], f"{module} imports {imported}"


def test_modules_have_no_import_cycles():
    """Including imports inside functions, which would hide a cycle."""
    graph = {module: {name for name in imported if name in FILES} - {module} for module, imported in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_core_needs_only_torch_and_the_runtime_no_torch():
    for module, imported in IMPORTS.items():
        if module != "residual_st":
            libraries = {name.partition(".")[0] for name in imported}
            assert not libraries & WITHOUT.get(place(module), set()), module


def test_package_does_not_import_experiments():
    experiments = {path.stem for path in (ROOT / "benchmarks").iterdir()} | {"benchmarks", "tests", "examples"}
    for module, imported in IMPORTS.items():
        assert not experiments & {name.partition(".")[0] for name in imported}, module


@pytest.mark.parametrize("layers", ["transformer_layers", "conformer_layers"])
def test_layer_names_of_a_kind_occur_in_one_file(layers):
    files = [module for module, path in FILES.items() if layers in path.read_text(encoding="utf-8")]
    assert len(files) == 1 and files[0].startswith("residual_st.fairseq.kinds."), files


def test_test_files_have_unique_names():
    """pytest would import two files with the same name as one module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
