"""The page as static files beside exported models, which then run in the browser."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from residual_st.errors import InputError
from residual_st.languages import AUTO, Languages
from residual_st.runtime.folder import DESCRIPTION, GRAPHS, Folder, read_folder, weights_of

PAGE = Path(__file__).with_name("page")
ORT = Path(__file__).with_name("ort")  # what `make web` leaves here


def require_ort() -> None:
    """Raise InputError where onnxruntime-web has not been vendored."""
    if not any(ORT.glob("*.wasm")):
        raise InputError(f"onnxruntime-web is not in {ORT}; run `make web` in the checkout, which takes it from npm")


def write_page(folder: Path, others: list[Path]) -> None:
    """Add the page to an exported folder, with other exported folders beside its model, for comparison.

    Raises:
        InputError: if another folder is not an exported model, or a graph is above 2 GB, or two models have one name.
    """
    names = [other.resolve().name for other in others]
    if len(set(names)) != len(names):
        raise InputError(f"the other models must have different names: {', '.join(names)}")
    first = _fit_for_a_browser(read_folder(folder))
    beside = [_fit_for_a_browser(read_folder(other), name) for name, other in zip(names, others)]
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    from residual_st.audio import voice_activity  # here, because it needs packages that other uses of this module do not

    shutil.copytree(ORT, folder / "ort")
    shutil.copyfile(voice_activity.MODEL, folder / "silero_vad.onnx")
    shutil.copyfile(voice_activity.LICENSE, folder / "silero_vad.LICENSE")
    models = [entry(first) | {"path": "./"}]
    for name, other in zip(names, beside):
        models.append(entry(other) | {"path": f"beside/{name}/"})
        (folder / "beside" / name).mkdir(parents=True)
        for file in GRAPHS:
            shutil.copyfile(other.path / file, folder / "beside" / name / file)
        # as this release describes it, for the page reads no earlier format
        description = json.dumps(other.description, ensure_ascii=False)
        (folder / "beside" / name / DESCRIPTION).write_text(description, encoding="utf-8")
    (folder / "models.json").write_text(json.dumps({"engine": "browser", "models": models}, indent=1), encoding="utf-8")


def _fit_for_a_browser(folder: Folder, name: str = "this model") -> Folder:
    if not folder.has_decoder:
        raise InputError(f"{name} writes by CTC, which the page in the browser does not; leave out --web, or use residual-st serve")
    if folder.streaming:
        raise InputError(f"{name} encodes chunk by chunk, which the page in the browser does not; export it without --streaming")
    large = next((graph for graph in GRAPHS if weights_of(graph) in folder.description["files"]), None)
    if large:
        raise InputError(
            f"{large} of {name} is above 2 GB, which no browser loads; export it with --precision int8, or without --web"
        )
    return folder


def entry(folder: Folder) -> dict:
    """What the page shows of a model."""
    description = folder.description
    lengths = vars(folder.lengths.limited(None, folder.longest_seconds))
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    named = {"name": f"{description['arch']}, {description['precision']}", "megabytes": megabytes, "lengths": lengths}
    return named | {"languages": _offered(folder.languages)}


def _offered(languages: Languages) -> dict:
    """What may be asked of a model: its tasks; its languages, from code to a name to show, by name; and its own direction."""
    names = {code: name.title() for name, code in reversed(languages.names.items())}

    def shown(codes: Iterable[str]) -> dict[str, str]:
        return dict(sorted(((code, names.get(code, code)) for code in codes), key=lambda each: each[1]))

    return {
        "tasks": [*languages.tasks],
        "sources": ({AUTO: "detect"} if languages.detected else {}) | shown(languages.sources),
        "targets": shown(languages.targets),
        "default": vars(languages.default),
    }
