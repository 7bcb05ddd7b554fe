"""Fixtures: a small synthetic corpus, prepared once, and fairseq's own commands run on it."""

import contextlib
import functools
import http.server
import io
import json
import shutil
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fairseq import checkpoint_utils
from fairseq.logging import metrics
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.tasks.speech_to_text import SpeechToTextTask
from fairseq_cli import train as fairseq_cli_train

import residual_st.models
from residual_st.audio.reading import read_audio
from residual_st.cli import main
from residual_st.fairseq.conversion import read_model
from residual_st.fairseq.model_input import model_input
from residual_st.fairseq.standalone import build_model
from residual_st.fairseq.training_data import read_symbols

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
RECIPE = ROOT / "examples" / "must_c"
USER_DIR = Path(residual_st.__file__).parent
SPEECH = ROOT / "tests" / "speech" / "arctic_a0007.wav"
torch.set_num_threads(1)

TINY = {
    "encoder_layers": 6,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "conv_channels": 32,
}

TINY_HUGGING_FACE = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_target_positions": 24,
}


def to_flags(options: dict) -> list[str]:
    """{"encoder_layers": 6, "report_accuracy": True} -> ["--encoder-layers", "6", "--report-accuracy"]"""
    flags = []
    for name, value in options.items():
        flags.append("--" + name.replace("_", "-"))
        if value is not True:
            flags.append(str(value))
    return flags


def run(*command, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run a command as a user would, and show what it printed if it fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"{command} exited {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result


def cli(*arguments, check: bool = True, program=main) -> subprocess.CompletedProcess:
    """Run `residual-st`, or another main function, in this process, which saves the seconds that a new one takes to start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = program([str(part) for part in arguments])
        except SystemExit as end:
            status = end.code
    if check and status:
        raise AssertionError(
            f"{program.__module__} {arguments} returned {status}\n{out.getvalue()[-4000:]}\n{err.getvalue()[-4000:]}"
        )
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def linked(data: Path, folder: Path, without: str) -> Path:
    """Create a folder with links to the files of `data`, without one of them. Returns the path for that file."""
    folder.mkdir()
    for file in data.iterdir():
        if file.name != without:
            (folder / file.name).symlink_to(file)
    return folder / without


def run_recipe(script: str, *arguments, **options) -> subprocess.CompletedProcess:
    return run(sys.executable, RECIPE / script, *arguments, **options)


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """A synthetic corpus of 124 training sentences in MuST-C's layout, before preparation."""
    root = tmp_path_factory.mktemp("release") / "mustc"
    run_recipe("make_demo_corpus.py", "--output", root, "--hours", "0.1")
    return root


@pytest.fixture(scope="session")
def data(release) -> Path:
    """The corpus prepared for both tasks. The `_plain` configs have no SpecAugment, whose random state fairseq does not save."""
    for task, size in (("st", 150), ("asr", 110)):
        flags = ["-d", release, "--languages", "de", "--task", task, "--vocab-size", size]
        run_recipe("prepare.py", *flags, "--specaugment", "none")
        config = release / "en-de" / f"config_{task}.yaml"
        config.rename(config.with_stem(f"config_{task}_plain"))
        run_recipe("prepare.py", *flags)
    return release / "en-de"


@pytest.fixture(scope="session")
def joint(release, tmp_path_factory) -> Path:
    """The corpus prepared jointly for two target languages."""
    root = tmp_path_factory.mktemp("joint") / "mustc"
    for language in ("de", "fr"):
        shutil.copytree(release / "en-de" / "data", root / f"en-{language}" / "data")
        for path in (root / f"en-{language}" / "data").glob("*/txt/*.de"):
            path.rename(path.with_suffix(f".{language}"))
    flags = ["-d", root, "--languages", "de", "fr", "--task", "st", "--vocab-size", "150"]
    run_recipe("prepare.py", *flags)
    run_recipe("prepare.py", *flags, "--joint")
    return root


MATRIX = """\
tasks: {asr: asr.yaml}
test-sets: [tst-HE]
systems:
  dense: {seeds: [1, 2]}
  bypassed: {from: "@dense", keep-layers: [], flags: null}
  low-rank: {from: "@dense", compress: {group-size: 1, residual-rank: =5/=5/=5/=5/=7/=7}, flags: {max-update: 2}}
  distilled:
    from: "@dense"
    compress: {group-size: 3, residual-rank: 2}
    flags: {max-update: 2, distill-from: "@dense", distill-encoder-weight: 1}
"""


@pytest.fixture(scope="session")
def matrix_run(data, tmp_path_factory) -> tuple[Path, list]:
    """The folder of a small matrix that was run for one seed (work/ and rows.jsonl), and the arguments of that run."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "matrix.yaml").write_text(MATRIX)
    config = yaml.safe_load((ROOT / "configs" / "quality_asr.yaml").read_text())
    config |= {name.replace("_", "-"): value for name, value in TINY.items()}
    config |= {"decoder-embed-dim": 32, "decoder-ffn-embed-dim": 48, "config-yaml": "config_asr_plain.yaml", "data": "unused"}
    config |= {"max-update": 8, "total-num-update": 8, "warmup-updates": 2, "log-interval": 2}
    (folder / "asr.yaml").write_text(yaml.safe_dump(config))
    arguments = [folder / "matrix.yaml", "--data", data, "--work", folder / "work", "--output", folder / "rows.jsonl"]
    run(sys.executable, ROOT / "benchmarks" / "quality.py", *arguments, "--seeds", "1")
    return folder, arguments


def tiny_flags(arch: str = "s2t_residual_transformer_s", **options) -> Namespace:
    """Flags of a small model, completed with the defaults of its arch."""
    flags = Namespace(arch=arch, **{**TINY, **options})
    ARCH_CONFIG_REGISTRY[arch](flags)
    return flags


def tiny_model(arch: str = "s2t_residual_transformer_s", seed: int = 1, fresh: bool = False, **options):
    """A small model, built as fairseq builds it, with a dictionary of 20 words.

    Matrices that start at 0 would leave the layers without effect. They are random as after training, unless `fresh`.
    """
    torch.manual_seed(seed)
    model = build_model(tiny_flags(arch, **options), 20)
    for name, parameter in model.named_parameters():
        if "shared_weights" in name and not fresh and not parameter.any():
            torch.nn.init.xavier_uniform_(parameter)
    return model


def same_weights(one: dict, two: dict) -> bool:
    """Whether two state dicts are equal, except for the uninitialised placeholder of fairseq 0.12.2."""
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one if not key.endswith("_float_tensor"))


@pytest.fixture
def batch() -> dict:
    """Model input for two utterances of different lengths, with target tokens."""
    generator = torch.Generator().manual_seed(1)
    return {
        "src_tokens": torch.randn(2, 60, 80, generator=generator),
        "src_lengths": torch.tensor([60, 41]),
        "prev_output_tokens": torch.randint(4, 20, (2, 7), generator=generator),
    }


@pytest.fixture
def fairseq_train(monkeypatch):
    """Run fairseq-train in this process; returns the exact loss of each update."""

    def train(data: Path, save_dir: Path, task: str = "st", **options) -> list[float]:
        losses = []
        train_step = SpeechToTextTask.train_step

        def recorded(self, *args, **kwargs):
            loss, sample_size, logging_output = train_step(self, *args, **kwargs)
            losses.append(float(loss.detach()))
            return loss, sample_size, logging_output

        defaults = {
            **TINY,
            "arch": "s2t_residual_transformer_s",
            "user_dir": USER_DIR,
            "task": "speech_to_text",
            "config_yaml": f"config_{task}_plain.yaml",
            "train_subset": f"train_{task}",
            "valid_subset": f"dev_{task}",
            "save_dir": save_dir,
            "criterion": "label_smoothed_cross_entropy",
            "label_smoothing": 0.1,
            "optimizer": "adam",
            "lr": 1e-3,
            "lr_scheduler": "inverse_sqrt",
            "warmup_updates": 10,
            "max_tokens": 4000,
            "seed": 1,
            "num_workers": 0,
            "data_buffer_size": 0,  # no reading thread, which could outlive the test
            "cpu": True,
            "no_epoch_checkpoints": True,
        }
        flags = to_flags({name: value for name, value in {**defaults, **options}.items() if value is not None})
        with monkeypatch.context() as patch:
            patch.setattr(SpeechToTextTask, "train_step", recorded)
            patch.setattr(sys, "argv", ["fairseq-train", str(data), *flags])
            metrics.reset()
            vars(checkpoint_utils.save_checkpoint).pop("best", None)  # where fairseq keeps the best score
            fairseq_cli_train.cli_main()
        return losses

    return train


_SHARED = {
    "encoder_residual_rank": 4,
    "decoder_layers": 2,
    "decoder_group_size": 2,
    "decoder_residual_rank": 3,
    "decoder_residual_diagonal": True,
    "criterion": "label_smoothed_cross_entropy_with_residual",
    "ctc_weight": 0.3,
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture
def shared_checkpoint(runs, data, fairseq_train) -> Path:
    """A checkpoint with shared encoder and decoder layers and a CTC head."""
    if not (runs / "shared" / "checkpoint_last.pt").exists():
        fairseq_train(data, runs / "shared", max_update=25, lr=5e-3, warmup_updates=5, **_SHARED)
    return runs / "shared" / "checkpoint_last.pt"


@pytest.fixture
def with_languages(runs, exported) -> Path:
    """The exported model, with two of its words as language tags."""
    folder = runs / "languages"
    if not folder.exists():
        shutil.copytree(exported, folder)
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        description["languages"]["targets"] = {"de": [20], "fr": [21]}
        (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


@pytest.fixture
def exported(runs, shared_checkpoint, data) -> Path:
    if not (runs / "fp32").exists():
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "fp32")
    return runs / "fp32"


@pytest.fixture
def chunked(runs, data, fairseq_train) -> tuple[Path, Path]:
    """A checkpoint whose encoder attends in chunks, and its data, which are normalised by corpus statistics."""
    folder = runs / "chunked-data"
    if not folder.exists():
        config = linked(data, folder, "config_st_plain.yaml")
        np.savez(folder / "statistics.npz", mean=np.full(80, 9.0), std=np.full(80, 2.5))
        entries = {"transforms": {"*": ["global_cmvn"]}, "global_cmvn": {"stats_npz_path": str(folder / "statistics.npz")}}
        config.write_text(yaml.safe_dump(yaml.safe_load((data / config.name).read_text()) | entries))
        chunks = {"encoder_chunk_frames": "4,8,0", "encoder_left_chunks": 2}
        fairseq_train(folder, runs / "chunked", max_update=12, lr=5e-3, warmup_updates=5, **{**_SHARED, **chunks})
    return runs / "chunked" / "checkpoint_last.pt", folder


@pytest.fixture
def streaming(runs, chunked) -> Path:
    """The exported chunked model, which is run chunk by chunk."""
    if not (runs / "streaming").exists():
        cli("export", chunked[0], "--data", chunked[1], "--output", runs / "streaming", "--streaming")
    return runs / "streaming"


@torch.no_grad()
def with_random_ctc(checkpoint, data, target):
    """Give a checkpoint a random CTC head that produces text. Its own head is trained too little to do so."""
    if not target.exists():
        state, torch_model = read_model(checkpoint)
        frames = model_input(read_symbols(state, data)[1]).features(read_audio(SPEECH, 16_000))
        states = torch_model.encoder(frames[None], torch.tensor([len(frames)]))["encoder_out"][0].flatten(0, 1)
        checkpoint_state = torch.load(checkpoint, weights_only=True)
        weight, bias = (checkpoint_state["model"][f"encoder.ctc_proj.{name}"] for name in ("weight", "bias"))
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        bias.copy_(-weight @ states.mean(0))
        torch.save(checkpoint_state, target)
    return target


@pytest.fixture
def streaming_ctc(runs, chunked) -> tuple[Path, Path, Path]:
    """Checkpoint, data and folder of an exported streaming model whose CTC head produces text."""
    checkpoint, folder = with_random_ctc(*chunked, runs / "streaming-ctc.pt"), runs / "streaming-ctc"
    if not folder.exists():
        cli("export", checkpoint, "--data", chunked[1], "--output", folder, "--streaming")
    return checkpoint, chunked[1], folder


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def microphone():
    """The recording that the browser's microphone plays."""
    return SPEECH


@pytest.fixture(scope="module")  # its event loop allows no other while it runs
def browser(microphone):
    """Chromium whose microphone plays a recording."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
        started = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A browser page. Errors and requests to other hosts fail the test."""
    context = browser.new_context(permissions=["microphone"])
    opened = context.new_page()
    opened.problems = []
    local_addresses = ("http://127.0.0.1:", "blob:", "data:")
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda request: request.url.startswith(local_addresses) or opened.problems.append(request.url))
    yield opened
    assert opened.problems == []
    context.close()


@pytest.fixture
def file_server():
    """A function that serves the files of a folder and returns its address."""
    with contextlib.ExitStack() as stack:

        def serve(folder: Path) -> str:
            handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


@pytest.fixture
def serving():
    """A function that serves model folders by `residual-st serve` and returns the page's address."""
    processes = []

    def serve(*folders: Path) -> str:
        command = [BIN / "residual-st", "serve", *folders, "--host", "0.0.0.0", "--port", "0"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1].stdout.readline().strip()

    yield serve
    for process in processes:
        process.terminate()
        process.communicate()


def texts_of(page, status="Done."):
    """The text of each model, once the page shows this status."""
    page.wait_for_selector(f"#status:text-is('{status}'), #status.error", timeout=180_000)
    assert page.locator("#status").inner_text() == status
    return page.locator("article .text").all_text_contents()
