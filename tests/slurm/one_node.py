"""A Slurm cluster of one node: this machine, for as long as a test needs it.

munged, slurmctld and slurmd run in the foreground as children of this process, with their
configuration, key, state and sockets in a folder of their own and on free ports. Nothing is written
to /etc or /var, and a Slurm that the machine may already have is neither used nor disturbed.

Nothing is installed unless `T2IMU_SLURM_TESTS=install` says so (Debian and its kin, as root).
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")
# The daemons are in folders that only root's PATH has everywhere.
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIGURATION = """\
ClusterName=t2imu
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# What needs neither systemd nor control groups, so that a container will do.
ProctrackType=proctrack/linuxproc
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
ReturnToService=2
# Seconds from SIGTERM to SIGKILL of a job that is cancelled; clusters have 30.
KillWait=5
GresTypes=gpu
{node} NodeAddr=127.0.0.1 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# GPUs in name only, for jobs that ask for one: Slurm counts them and sets CUDA_VISIBLE_DEVICES.
GPUS = """\
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


class SlurmUnavailable(RuntimeError):
    """There can be no cluster on this machine; the message says why and what would help."""


def find_programs() -> dict[str, str]:
    """The path of each program that a cluster needs, installed first where that was asked for.

    Raises:
        SlurmUnavailable: one is missing and may not or cannot be installed.
    """
    if missing := _missing():
        names = ", ".join(missing)
        if os.environ.get("T2IMU_SLURM_TESTS") != "install":
            raise SlurmUnavailable(
                f"{names}: not on this machine. Install the packages {' '.join(PACKAGES)}, or set"
                " T2IMU_SLURM_TESTS=install to have that done with apt-get."
            )
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SlurmUnavailable(f"{names}: not on this machine; to install needs root, apt-get.")
        _install()
    return {name: shutil.which(name, path=SEARCHED) for name in PROGRAMS}


def _missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]


def _install() -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SlurmUnavailable(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-300:]}")


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def write_files(folder: Path, programs: dict[str, str]) -> dict[str, str]:
    """The cluster's key, configuration and `srun` in `folder`; the environment of its users."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    # NodeName, CPUs, cores and RealMemory (MiB) of this machine, as slurmd itself counts them.
    node = subprocess.run([programs["slurmd"], "-C"], capture_output=True, text=True).stdout
    control_port, node_port = free_ports(2)
    (folder / "gres.conf").write_text(GPUS)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            user=os.geteuid(),
            host=socket.gethostname().split(".")[0],
            node=node.partition("\n")[0],
            control_port=control_port,
            node_port=node_port,
        )
    )
    # Snakemake's plugin drops SLURM_* around the srun inside a job, and with it SLURM_CONF.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {programs["srun"]} "$@"\n')
    srun.chmod(0o755)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }
    path = os.pathsep.join([str(folder / "bin"), SEARCHED])
    return inherited | {"PATH": path, "SLURM_CONF": str(configuration)}


@contextmanager
def daemon(folder: Path, command: list[str], ready: Callable[[], bool]) -> Iterator[None]:
    """Run a daemon in the foreground from when it is ready until the block ends."""
    name = Path(command[0]).name
    log = folder / f"{name}.out"
    with open(log, "w") as stream:
        # A session of its own: Ctrl-C is for the tests, which then end it in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        if not wait_until(lambda: process.poll() is not None or ready(), seconds=30):
            raise SlurmUnavailable(f"{name} does not answer: {_tail(log)}")
        if process.poll() is not None:
            raise SlurmUnavailable(f"{name} ended with {process.returncode}: {_tail(log)}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true within so many seconds."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return true


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-600:] or "it said nothing."


@contextmanager
def one_node_cluster() -> Iterator[dict[str, str]]:
    """A running cluster; yields the environment in which `sbatch` and its kin reach it.

    Raises:
        SlurmUnavailable: it cannot be had on this machine.
    """
    programs = find_programs()
    with ExitStack() as stack:
        # A short path, since those of Unix sockets may have no more than 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="t2imu-slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        environment = write_files(folder, programs)
        configuration = environment["SLURM_CONF"]

        def said(*command: str) -> str:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            return done.stdout if done.returncode == 0 else ""

        munge_socket = folder / "munge.socket"
        # Forced, since it expects a socket for everybody, and this folder is the user's alone.
        munged = [programs["munged"], "--foreground", "--force", f"--socket={munge_socket}"]
        munged += [f"--key-file={folder}/munge.key", f"--log-file={folder}/munged.log"]
        munged += [f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed"]
        stack.enter_context(daemon(folder, munged, munge_socket.exists))
        control = [programs["slurmctld"], "-D", "-f", configuration]
        stack.enter_context(daemon(folder, control, lambda: " UP" in said("scontrol", "ping")))
        node = [programs["slurmd"], "-D", "-f", configuration]
        state = ("sinfo", "--noheader", "--format=%T")
        stack.enter_context(daemon(folder, node, lambda: said(*state).strip() == "idle"))
        try:
            yield environment
        finally:
            # While the node is there: nobody else would end the processes of its jobs.
            said("scancel", "--user", str(os.geteuid()))
            jobs = ("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING")
            wait_until(lambda: not said(*jobs).strip(), seconds=20)
