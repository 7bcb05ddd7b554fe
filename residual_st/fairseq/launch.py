"""Training in several processes, on one or several machines."""

import os
import re
import sys
from dataclasses import dataclass
from functools import partial

import torch

from residual_st.errors import InputError, reason

_KEYS = ("nproc", "nnodes", "node-rank", "master")
WORKER = ["-m", "residual_st.fairseq.worker"]


@dataclass(frozen=True)
class Launch:
    """The processes that train together.

    Attributes:
        nproc: number of processes on this machine.
        nnodes: number of machines.
        node_rank: index of this machine, from 0.
        host, port: rendezvous address, on the first machine; None for a single machine, which chooses a free port.
    """

    nproc: int
    nnodes: int = 1
    node_rank: int = 0
    host: str | None = None
    port: int | None = None

    @property
    def world_size(self) -> int:
        return self.nproc * self.nnodes

    def torchrun(self) -> list[str]:
        """torchrun's flags for the same processes."""
        if self.host is None:
            return ["--standalone", "--nproc-per-node", str(self.nproc)]
        flags: dict[str, object] = {"nnodes": self.nnodes, "node-rank": self.node_rank, "nproc-per-node": self.nproc}
        flags |= {"master-addr": self.host, "master-port": self.port}
        return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


def take_launch(config: dict) -> tuple[dict, Launch | None]:
    """The config without `nproc`, `nnodes`, `node-rank` and `master`, and the Launch that they describe; None for one process.

    Raises:
        InputError: if they are inconsistent, combined with fairseq's own flags for several processes, or there are too few GPUs.
    """
    launch_flags = {key: config[key] for key in _KEYS if key in config}
    config = {key: value for key, value in config.items() if key not in _KEYS}
    if not launch_flags:
        return config, None
    conflicting = next(
        (key for key in config if key in {"distributed-world-size", "distributed-rank", "distributed-init-method"}), None
    )
    if conflicting:
        raise InputError(f"{conflicting} and {next(iter(launch_flags))} both set the processes of training; remove one of them")
    nnodes = _number(launch_flags, "nnodes", 1)
    launch = Launch(
        _number(launch_flags, "nproc", 1), nnodes, _number(launch_flags, "node-rank", 0), *_address(launch_flags.get("master"))
    )
    if launch.nproc < 1 or nnodes < 1:
        raise InputError(f"nproc={launch.nproc} and nnodes={nnodes} must both be at least 1")
    if not 0 <= launch.node_rank < nnodes:
        raise InputError(f"node-rank={launch.node_rank} must be from 0 to nnodes - 1, and nnodes is {nnodes}")
    if nnodes > 1 and not {"node-rank", "master"} <= launch_flags.keys():
        raise InputError(
            "several machines need node-rank=N, the index of this machine from 0, and master=HOST:PORT of the first one"
        )
    on_gpus = torch.cuda.is_available() and str(config.get("cpu", "")).lower() not in ("true", "yes", "on")
    if on_gpus and launch.nproc > torch.cuda.device_count():
        raise InputError(
            f"nproc={launch.nproc} needs as many GPUs, but there are {torch.cuda.device_count()}; give cpu=true to train on CPUs"
        )
    return config, launch if launch.world_size > 1 else None


def _number(launch_flags: dict, key: str, default: int) -> int:
    value = str(launch_flags.get(key, default))
    if not re.fullmatch(r"\d{1,6}", value):
        raise InputError(f"{key}={value} is not a number")
    return int(value)


def _address(master: str | None) -> tuple[str | None, int | None]:
    if master is None:
        return None, None
    host, _, port = master.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 2**16:
        raise InputError(f"master={master} must have the form HOST:PORT, such as node1:29500")
    return host, int(port)


def run_together(launch: Launch, arguments: list[str]) -> int:
    """Run fairseq-train in these processes with torch's elastic agent, like torchrun. Returns an exit status.

    If a process fails or is killed, the agent stops the others on this machine; those on other machines lose their connection and
    end. If this process is killed, the processes that it started end too.

    Raises:
        InputError: if the machines do not connect within a quarter of an hour.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.nproc)))
    configure = partial(
        LaunchConfig,
        min_nodes=launch.nnodes,
        max_nodes=launch.nnodes,
        nproc_per_node=launch.nproc,
        run_id="residual-st",
        max_restarts=0,
        monitor_interval=1,
    )
    if launch.host is None:
        config = configure(rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    else:
        place, settings = f"{launch.host}:{launch.port}", {"rank": launch.node_rank}
        config = configure(rdzv_backend="static", rdzv_endpoint=place, rdzv_configs=settings)
    try:
        elastic_launch(config, sys.executable)(*WORKER, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with exit status {failure.exitcode}"
        print(
            f"residual-st train: process {rank} of {launch.world_size} {how}, and the others were stopped; "
            "the same command resumes from the last checkpoint",
            file=sys.stderr,
        )
        return 1
    except (torch.distributed.DistError, RendezvousError) as error:
        raise InputError(f"the processes could not connect at {launch.host}:{launch.port}: {reason(error)}") from error
    return 0
