"""Runs console scripts of fairseq and residual-st in forked processes, which start without importing torch again."""

import os
import sys
import traceback
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

# Processes fork from a server that has imported torch and fairseq. Neither it nor this module imports residual_st: fairseq does
# not import a user dir whose package is already loaded.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fairseq_cli.train", "fairseq_cli.generate", "fairseq_cli.validate", "torch._dynamo", "sacrebleu"])


def _run(command: list[str], log: Path) -> None:
    """In the new process, call the main function of the script, and write its output to the file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = command
    program, *arguments = command
    try:
        if program == "residual-st":
            sys.exit(import_module("residual_st.cli").main(arguments))
        import_module(program.replace("fairseq-", "fairseq_cli.")).cli_main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def command(*parts, log: Path) -> str:
    """Run a console script as a user would, and return what it printed.

    Raises:
        AssertionError: if it fails, with the end of its output.
    """
    process = _CONTEXT.Process(target=_run, args=([str(part) for part in parts], log))
    process.start()
    process.join()
    output = log.read_text(encoding="utf-8")
    assert process.exitcode == 0, f"{' '.join(map(str, parts))} exited {process.exitcode}\n{output[-6000:]}"
    return output
