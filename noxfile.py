"""Every version that is named, from nothing: `nox`, or `nox -s oldest newest` for the ends; `nox -l` lists them.

Each environment trains a little, resumes, averages, translates, compresses and expands (.ci/smoke.py), and reads the checkpoints of
those that ran before it; the oldest reads those of the newest in the end. Needs Python 3.10 to 3.13, and gigabytes of downloads for
each torch.
"""

import os
from pathlib import Path

import nox

OLDEST_TORCH, NEWEST_TORCH = "torch==2.6.0", "torch>=2.14,<2.15"
WORK = Path(__file__).parent / ".nox" / "checkpoints"
CORPUS = Path(os.environ.get("DEMO_ROOT", Path(__file__).parent / "demo")) / "en-de"

nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True


def fairseq(session: nox.Session, torch: str = "") -> None:
    """Everything that the base installation does."""
    if not (CORPUS / "train_st.tsv").exists():
        session.error(f"{CORPUS} does not exist; make demo, or .ci/run, makes it")
    session.run(".ci/install", str(Path(session.bin).absolute()), torch, ".", external=True, silent=True)
    session.run("pip", "check")
    name = session.name.partition("(")[0]
    others = [str(path) for path in sorted(WORK.glob("*/*.pt")) if path.stem in ("dense", "residual") and path.parent.name != name]
    with session.chdir(session.create_tmp()):  # not the checkout: what is installed is what is tested
        session.run("python", str(Path(__file__).parent / ".ci" / "smoke.py"), str(CORPUS), str(WORK / name), *others)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """fairseq 0.12.2 and the oldest torch that works."""
    fairseq(session, OLDEST_TORCH)


@nox.session(python="3.11")
def python311(session: nox.Session) -> None:
    fairseq(session)


@nox.session(python="3.12")
def python312(session: nox.Session) -> None:
    fairseq(session)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """fairseq-fixed and the newest torch that works."""
    fairseq(session, NEWEST_TORCH)


@nox.session(python="3.10")
def oldest_reads(session: nox.Session) -> None:
    """The oldest end again, with the checkpoints of all others there."""
    fairseq(session, OLDEST_TORCH)


@nox.session(python="3.13")
def core(session: nox.Session) -> None:
    """`residual_st.sharing` with torch and nothing else."""
    session.install("-c", "constraints.txt", "torch", "pytest", "hypothesis", "numpy")
    session.install("--no-deps", ".")
    names = ("properties", "plan", "ranks", "fully_shard")
    session.run("python", "-m", "pytest", "-q", "--noconftest", *(f"tests/sharing/test_{name}.py" for name in names))


@nox.session(python="3.13")
def runtime(session: nox.Session) -> None:
    """Translation without torch."""
    session.install(".[runtime]")
    session.run("python", "-c", "import importlib.util as u; assert not u.find_spec('torch') and not u.find_spec('fairseq')")
    session.run("residual-st", "translate", str(CORPUS.parent / "device"), "tests/speech/arctic_a0007.wav", "--json")
    session.run("residual-st", "listen", str(CORPUS.parent / "device"), "tests/speech/arctic_a0007.wav", "--fast", "--json")


@nox.session(python="3.11", default=False)
def forks(session: nox.Session) -> None:
    """The conformers of FBK-fairseq and StreamSpeech, checkouts named by FBK_FAIRSEQ and STREAMSPEECH (benchmarks/forks.py)."""
    checkouts = {"FBK-fairseq": os.environ.get("FBK_FAIRSEQ"), "StreamSpeech": os.environ.get("STREAMSPEECH")}
    given = [f"{name}={path}" for name, path in checkouts.items() if path] + session.posargs
    if not given:
        session.error("FBK_FAIRSEQ or STREAMSPEECH must name a checkout, or -- FBK-fairseq=CHECKOUT StreamSpeech=CHECKOUT follow")
    if not (CORPUS / "train_st.tsv").exists():
        session.error(f"{CORPUS} does not exist; make demo, or .ci/run, makes it")
    session.run(".ci/install", str(Path(session.bin).absolute()), "", ".", external=True, silent=True)
    session.install("sentencepiece")
    session.install("h5py", "pandas", "praat-parselmouth", "scikit-image")  # which FBK-fairseq imports
    session.run("python", "benchmarks/forks.py", str(CORPUS), *given)
