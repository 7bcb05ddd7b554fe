"""The page as static files beside exported models, which then run in the browser."""

import json
import shutil
from pathlib import Path

from residual_st.errors import InputError
from residual_st.runtime.folder import DESCRIPTION, GRAPHS, Folder, read_folder

PAGE = Path(__file__).with_name("page")
ORT = Path(__file__).with_name("ort")  # what `make web` leaves here


def require_ort() -> None:
    """Raise InputError where onnxruntime-web has not been vendored."""
    if not any(ORT.glob("*.wasm")):
        raise InputError(f"onnxruntime-web is not in {ORT}; run `make web` in the checkout, which takes it from npm")


def write_page(folder: Path, others: list[Path]) -> None:
    """Add the page to an exported folder, with other exported folders beside its model, for comparison.

    Raises:
        InputError: if another folder is not an exported model, or two have one name.
    """
    names = [other.resolve().name for other in others]
    if len(set(names)) != len(names):
        raise InputError(f"the other models must have different names: {', '.join(names)}")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    shutil.copytree(ORT, folder / "ort")
    models = [entry(read_folder(folder)) | {"path": "./"}]
    for name, other in zip(names, others):
        models.append(entry(read_folder(other)) | {"path": f"beside/{name}/"})
        (folder / "beside" / name).mkdir(parents=True)
        for file in (DESCRIPTION, *GRAPHS):
            shutil.copyfile(other / file, folder / "beside" / name / file)
    (folder / "models.json").write_text(json.dumps({"engine": "browser", "models": models}, indent=1), encoding="utf-8")


def entry(folder: Folder) -> dict:
    """What the page shows of a model."""
    description = folder.description
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    return {"name": f"{description['arch']}, {description['precision']}", "megabytes": megabytes}
