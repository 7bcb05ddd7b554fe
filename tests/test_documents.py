"""Commands in README and docs: README's are run in order on small data, those of docs are parsed."""

import os
import re
import shlex
import shutil
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import BIN, ROOT, TINY_HUGGING_FACE, cli, run, tiny_model
from fairseq import options

from residual_st.cli import parse

SPEECH = ROOT / "tests" / "speech" / "arctic_a0007.wav"
DOCS = [str(path.relative_to(ROOT)) for folder in ("docs", "docs/tutorials") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES = ["README.md", "examples/must_c/README.md", *DOCS]
PROGRAMS = ("residual-st", "fairseq-train", "fairseq-generate", "python")
# replaces `…`, the rest of a recipe, with the flags of a small model
TRAINING = """--train-subset train_st --valid-subset dev_st --criterion label_smoothed_cross_entropy --optimizer adam --lr 1e-3
  --max-tokens 4000 --max-update 2 --encoder-layers 6 --encoder-embed-dim 32 --encoder-ffn-embed-dim 48 --encoder-attention-heads 4
  --decoder-layers 1 --decoder-attention-heads 4 --conv-channels 32 --num-workers 0 --cpu --save-dir run"""
GENERATION = "--max-tokens 20000 --beam 1 --max-len-b 5 --cpu"
FASTER = {
    "--refine-updates 120": "--refine-updates 1 --calibration-batches 1",
    "--max-loss 5%": "--max-loss 50% --calibration-batches 1",
}


def code_of(page: str) -> list[str]:
    """The code blocks of a page, fenced or indented."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^(?: {4,}.*)?\n)+", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in [*fenced, *indented] if block.strip()]


def commands_of(page: str) -> list[str]:
    """Each command of a page on one line, without its comment."""
    lines = "\n".join(code_of(page)).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s+#\s.*", "", line).strip() for line in lines]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith(PROGRAMS)]


def snippets_of(page: str) -> list[str]:
    return [block for block in code_of(page) if re.match(r"(from|import) \w", block)]


@pytest.fixture
def folder(data, exported, with_languages, fairseq_train, tmp_path):
    """A folder with all files that the pages mention, except those that their commands write."""
    for name in ("configs", "examples", "benchmarks", "residual_st"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "mustc").mkdir()
    for name in ("DATA", "mustc/en-de"):
        (tmp_path / name).symlink_to(data)
    fairseq_train(data, tmp_path / "dense", arch="s2t_transformer_s", decoder_layers=3, max_update=2)
    shutil.copy(tmp_path / "dense" / "checkpoint_last.pt", tmp_path / "dense.pt")
    speech, rate = soundfile.read(SPEECH, dtype="float32")
    soundfile.write(tmp_path / "talk.mp3", speech, rate)
    soundfile.write(tmp_path / "talk.flac", speech, rate)
    (tmp_path / "AUDIO").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / "AUDIO" / f"{number}.wav", np.tile(speech, 7) + 0.01 * number, rate)
    whisper(tmp_path / "whisper-tiny")
    return tmp_path


def whisper(folder: Path) -> None:
    """Save a random Whisper without a tokenizer."""
    pytest.importorskip("residual_st.huggingface")  # hides a torchaudio that fails to load
    import transformers

    torch.manual_seed(1)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**TINY_HUGGING_FACE, **special, vocab_size=60))
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


def test_commands_of_readme_run_in_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MUSTC_ROOT", str(folder / "mustc"))
    for command in commands_of("README.md"):
        if command.startswith("residual-st serve"):
            continue  # runs until it is interrupted
        if command == "residual-st listen model":
            command += " talk.mp3 --fast"  # the machine may have no microphone
        command = command.replace("…", TRAINING if "train" in command else GENERATION).replace("\n", " ")
        for flag, faster in FASTER.items():
            command = command.replace(flag, faster)
        if "configs/must_c" in command and "--dry-run" not in command:
            command += " --dry-run"  # the real recipe is too large
        if command.startswith("residual-st "):
            cli(*shlex.split(command)[1:])
        else:
            run("bash", "-c", command)
    for written in ("residual.pt", "stock.pt", "smaller/model.safetensors", "model/encoder.onnx"):
        assert (folder / written).is_file(), written
    (snippet,) = snippets_of("README.md")
    exec(snippet, {})


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, x, mask):
        return x + self.down(torch.relu(self.up(x)))


class Stack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, mask=torch.ones(x.shape[:2], dtype=torch.bool))
        return x


@pytest.mark.parametrize("page", ["docs/api.md", "docs/compression.md", "docs/device.md", "docs/streaming.md"])
def test_python_snippets_of_docs_run(folder, with_languages, streaming, monkeypatch, page):
    monkeypatch.chdir(folder)
    (folder / "model").symlink_to(with_languages)
    (folder / "streaming").symlink_to(streaming)
    torch.manual_seed(1)
    stack = Stack()
    names = {
        "model": tiny_model("s2t_transformer_s") if page == "docs/compression.md" else stack,
        "layers": torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU()) for _ in range(4)),
        "batches": list(torch.randn(6, 2, 20, 16)),
        "encode": lambda model, batch: model(batch),
        "samples": soundfile.read(SPEECH, dtype="float32")[0],
        "loss": lambda model, batch: model(batch).square().sum(),
    }
    if page == "docs/compression.md":
        names["loss"] = lambda layers, batch: torch.nn.Sequential(*layers)(batch).square().sum()
    for snippet in snippets_of(page):
        exec(snippet, names)


COMMANDS = [(page, command) for page in PAGES for command in commands_of(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command[:60]}" for page, command in COMMANDS])
def test_commands_of_every_page_are_parsed(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(
        re.sub(r"\$\(residual-st user-dir[^)]*\)", "residual_st", command.replace("…", "")).replace("${MUSTC_ROOT}", "/mustc")
    )
    words = words[: next((at for at, word in enumerate(words) if word in "<>|;"), None)]
    if words[0] == "residual-st":
        parse(words[1:])
    elif words[0] == "fairseq-train":
        base = ["--user-dir", "residual_st", "--task", "speech_to_text", "--arch", "s2t_residual_transformer_s"]
        if any(word.startswith("--distill") for word in words):
            base += ["--criterion", "label_smoothed_cross_entropy_with_residual"]
        options.parse_args_and_arch(options.get_training_parser(), [*base, *words[1:]])
    elif words[0] == "fairseq-generate":
        options.parse_args_and_arch(options.get_generation_parser(), words[1:])
        assert {"--config-yaml", "--gen-subset", "--path"} <= set(words)
    elif words[1] == "-m":  # its flags belong to another program
        assert find_spec(words[2]) is not None
    else:
        source = Path(words[1]).read_text(encoding="utf-8")
        for flag in (word for word in words[2:] if word.startswith("--")):
            assert f'"{flag}"' in source, f"{words[1]} has no {flag}"


def test_pages_contain_commands():
    """Otherwise the test above would pass vacuously."""
    pages = {"README.md", "examples/must_c/README.md", "docs/device.md", "docs/scale.md"}
    pages |= {f"docs/tutorials/{name}.md" for name in ("must_c", "whisper", "captions")}
    assert {page for page, _ in COMMANDS} >= pages
    assert len(COMMANDS) > 40
