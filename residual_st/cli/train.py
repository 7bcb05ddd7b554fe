"""Print and run the fairseq-train command that a YAML config describes."""

import argparse
import os
import sys
from pathlib import Path

# Turns for which a waiting thread of libgomp spins before it sleeps. With its default threads crawl beside other programs; without
# spinning (OMP_WAIT_POLICY=PASSIVE) training takes 1.6 times as long on free cores.
SPINS = "10000"
TAKES_REST = True  # overrides after an option, which argparse does not add to a list of positionals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file with `data` and fairseq-train's flags without their dashes")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="flags that replace the file's; `key=` removes one; nproc=N trains in N processes (several machines: docs/scale.md)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command without running it")


def run(args: argparse.Namespace) -> int:
    from residual_st.fairseq.launch import WORKER, run_together, take_launch
    from residual_st.fairseq.train import (
        check_run,
        format_command,
        import_user_dir,
        is_finished,
        read_config,
        to_arguments,
        validate,
        with_form,
    )

    config, overridden = read_config(args.config, args.overrides + args.rest)
    config, launch = take_launch(config)
    import_user_dir(config)
    config, form = with_form(config, overridden)
    arguments = to_arguments(config)
    flags = validate(arguments, form)
    if flags.log_file is None:
        arguments += ["--log-file", str(Path(flags.save_dir) / "train.log")]  # where `residual-st report` looks
    program = ["torchrun", *launch.torchrun(), *WORKER] if launch else ["fairseq-train"]
    print(format_command(program, arguments), flush=True)
    if args.dry_run:
        return 0
    check_run(flags)
    if is_finished(flags):
        print(f"{flags.save_dir} already contains a run of {flags.max_update} updates; give a larger max-update to continue it")
        return 0
    Path(flags.save_dir).mkdir(parents=True, exist_ok=True)  # fairseq-train opens the log before it makes the folder
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if launch:
        return run_together(launch, arguments)
    # runs fairseq-train with this interpreter, whatever PATH says; it replaces this process, so that it receives its signals
    return os.execv(sys.executable, [sys.executable, "-m", "fairseq_cli.train", *arguments])
