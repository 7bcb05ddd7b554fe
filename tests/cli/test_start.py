"""Imports and exit codes of the command line."""

import subprocess
import sys
from importlib.metadata import requires

import pytest
from conftest import BIN, run, tiny_flags, tiny_model

from residual_st.cli import SUBCOMMANDS, main
from residual_st.fairseq.checkpoints import save_checkpoint

HEAVY = {"torch", "fairseq", "scipy", "matplotlib", "editdistance", "soundfile"}


@pytest.mark.parametrize("arguments", [["--help"], ["user-dir"], *([name, "--help"] for name in SUBCOMMANDS)], ids=" ".join)
def test_help_needs_neither_torch_nor_fairseq(arguments):
    code = "import sys, residual_st.cli as cli\n"
    code += f"try: cli.main({arguments!r})\nexcept SystemExit as end: assert not end.code\n"
    code += f"heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy"
    assert run(sys.executable, "-c", code).stdout


def test_help_works_without_docstrings():
    """`python -OO` removes docstrings and assertions."""
    code = "import residual_st.cli as cli\n"
    for arguments in ([], *([name] for name in SUBCOMMANDS), ["benchmark", "device"]):
        code += f"try: cli.main({[*arguments, '--help']!r})\nexcept SystemExit as end: status = end.code\n"
        code += "if status: raise SystemExit(status)\n"
    assert run(sys.executable, "-OO", "-c", code).stdout.count("usage:") == 2 + len(SUBCOMMANDS)


BLOCK = """\
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from residual_st.cli import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "sentence"),
    [
        (["fairseq"], ["inspect", "--arch", "s2t_transformer_s"], "pip install --no-build-isolation"),
        (["torch"], ["average", "a.pt", "--output", "b.pt"], "torch is not installed: pip install 'torch>=2.6'\n"),
        (["editdistance"], ["report", "run"], "editdistance is not installed: pip install editdistance\n"),
        (["jinja2"], ["report", "run"], "jinja2 is not installed: pip install jinja2\n"),
        (
            ["matplotlib"],
            ["benchmark", "speed", "--plot", "picture"],
            "matplotlib is not installed: pip install matplotlib\n",
        ),
    ],
)
def test_missing_package_is_named_with_its_install_command(tmp_path, blocked, arguments, sentence):
    code = BLOCK.format(blocked=blocked, arguments=arguments)
    result = run(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["editdistance", "soundfile", "soxr", "kaldi_native_fbank", "matplotlib", "jinja2"])
def test_commands_run_without_packages_that_they_do_not_use(tmp_path, blocked):
    save_checkpoint({"model": tiny_model().state_dict(), "cfg": {"model": tiny_flags()}}, tmp_path / "a.pt")
    code = BLOCK.format(blocked=[blocked], arguments=["inspect", str(tmp_path / "a.pt")])
    assert "encoder_weight_fraction" in run(sys.executable, "-c", code).stdout


def test_closed_output_pipe_is_not_an_error():
    command = [BIN / "residual-st", "inspect", "--arch", "s2t_residual_transformer_s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # the reader closes the pipe before anything is written
    assert process.stderr.read() == ""
    assert process.wait() == 0


def test_base_dependencies_include_neither_torch_nor_fairseq():
    """A user's fork of fairseq must not be overwritten."""
    base = [line for line in requires("residual-st") if "extra ==" not in line]
    assert base
    assert not [line for line in base if line.startswith(("torch", "fairseq"))]


def test_unknown_argument_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["expand", "a.pt", "--output", "b.pt", "--nonsense"])
    assert end.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
