"""The page as static files with exported models, which run in the browser."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from residual_st.errors import InputError
from residual_st.languages import AUTO, Languages
from residual_st.runtime.folder import DESCRIPTION, GRAPHS, Folder, read_folder, weights_of

PAGE = Path(__file__).with_name("page")
ORT = Path(__file__).with_name("ort")  # written by `make web`


def require_ort() -> None:
    """Raise InputError if onnxruntime-web has not been vendored."""
    if not any(ORT.glob("*.wasm")):
        raise InputError(f"onnxruntime-web is not in {ORT}; run `make web` in the checkout, which installs it from npm")


def write_page(folder: Path, others: list[Path]) -> None:
    """Add the page to an exported folder, optionally with other exported folders for comparison.

    Raises:
        InputError: if another folder is not an exported model, a graph is above 2 GB, or two models have the same name.
    """
    names = [other.resolve().name for other in others]
    if len(set(names)) != len(names):
        raise InputError(f"the folders of --web must have different names, but are {', '.join(names)}")
    first = _fit_for_a_browser(read_folder(folder))
    beside = [_fit_for_a_browser(read_folder(other), name) for name, other in zip(names, others)]
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    from residual_st.audio import voice_activity  # imported here: it needs packages that this module otherwise does not

    shutil.copytree(ORT, folder / "ort")
    shutil.copyfile(voice_activity.MODEL, folder / "silero_vad.onnx")
    shutil.copyfile(voice_activity.LICENSE, folder / "silero_vad.LICENSE")
    models = [entry(first) | {"path": "./"}]
    for name, other in zip(names, beside):
        models.append(entry(other) | {"path": f"beside/{name}/"})
        (folder / "beside" / name).mkdir(parents=True)
        for file in GRAPHS:
            shutil.copyfile(other.path / file, folder / "beside" / name / file)
        # in the current format, since the page reads no earlier one
        description = json.dumps(other.description, ensure_ascii=False)
        (folder / "beside" / name / DESCRIPTION).write_text(description, encoding="utf-8")
    (folder / "models.json").write_text(json.dumps({"engine": "browser", "models": models}, indent=1), encoding="utf-8")


def _fit_for_a_browser(folder: Folder, name: str = "this model") -> Folder:
    if not folder.has_decoder:
        raise InputError(f"{name} is a CTC model, which --web does not support; leave out --web, or use residual-st serve")
    if folder.streaming:
        raise InputError(f"{name} has a streaming encoder, which --web does not support; export it without --streaming")
    large = next((graph for graph in GRAPHS if weights_of(graph) in folder.description["files"]), None)
    if large:
        raise InputError(
            f"{large} of {name} is above 2 GB, the limit of browsers; export it with --precision int8, or without --web"
        )
    return folder


def entry(folder: Folder) -> dict:
    """A model's entry in models.json."""
    description = folder.description
    lengths = vars(folder.lengths.limited(None, folder.longest_seconds))
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    named = {"name": f"{description['arch']}, {description['precision']}", "megabytes": megabytes, "lengths": lengths}
    return named | {"languages": _offered(folder.languages)}


def _offered(languages: Languages) -> dict:
    """The model's tasks, its languages as code -> displayed name, sorted by name, and its default direction."""
    names = {code: name.title() for name, code in reversed(languages.names.items())}

    def shown(codes: Iterable[str]) -> dict[str, str]:
        return dict(sorted(((code, names.get(code, code)) for code in codes), key=lambda each: each[1]))

    return {
        "tasks": [*languages.tasks],
        "sources": ({AUTO: "detect"} if languages.detected else {}) | shown(languages.sources),
        "targets": shown(languages.targets),
        "default": vars(languages.default),
    }
