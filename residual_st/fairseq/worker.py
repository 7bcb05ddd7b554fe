"""One of several training processes: fairseq-train with the rank from torchrun's environment.

`residual-st train CONFIG nproc=2` runs `torchrun --nproc-per-node 2 -m residual_st.fairseq.worker DATA FLAGS…`. Started directly by
torchrun, fairseq divides by the number of GPUs, which fails on a machine without GPUs.
"""

import argparse
import os
import signal
import sys
import threading
import time

import torch
from fairseq_cli.train import cli_main, utils  # sets up logging before importing fairseq

from residual_st.fairseq.user_dir import register


def main() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    arguments = sys.argv[1:]
    if "--distributed-backend" not in arguments:
        on_gpus = torch.cuda.is_available() and "--cpu" not in arguments
        arguments += ["--distributed-backend", "nccl" if on_gpus else "gloo"]
    place = {"init-method": "env://", "world-size": os.environ["WORLD_SIZE"], "rank": os.environ["RANK"]}
    arguments += [part for name, value in place.items() for part in (f"--distributed-{name}", value)]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--user-dir")
    utils.import_user_module(parser.parse_known_args(arguments)[0])
    register()  # fairseq does not import a user dir whose package is already imported
    sys.argv = ["fairseq-train", *arguments, "--distributed-no-spawn", "--device-id", os.environ["LOCAL_RANK"]]
    cli_main()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed without stopping its children."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
