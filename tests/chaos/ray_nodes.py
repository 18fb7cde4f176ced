"""A cluster of Ray nodes on this machine, each with an address of its own where the machine allows it.

As root every node gets a network namespace (``ip netns``) on a bridge; otherwise the nodes are plain raylets on
loopback. A node dies as a machine does: everything on it is killed at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_PREFIX, _FOLDERS = "vavlc", "vavlchaos-"
_BRIDGE = f"{_PREFIX}{os.getpid()}"
_NET = f"10.231.{os.getpid() % 250}"
_START_SECONDS = 120.0
_PROGRAMS = Path(sys.executable).parent
_QUICK = {
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_AUTH_MODE": "disabled",  # a token file of this machine's user would ask every client for it
    "RAY_DISABLE_MEMORY_MONITOR": "1",
}


@dataclass
class Node:
    """One node.

    Attributes:
        name: of the node and of its namespace.
        address: IP address.
        process: the ``ray start --block`` of the node.
        namespace: of its network, None without one.
    """

    name: str
    address: str
    process: subprocess.Popen[bytes]
    namespace: str | None

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs on the node."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            found = {one.pid: one for one in (top, *top.children(recursive=True))}
        if self.namespace is not None:
            listed = _ip("netns", "pids", self.namespace, check=False).split()
            for pid in map(int, listed):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.setdefault(pid, psutil.Process(pid))
        return list(found.values())

    def find(self, word: str) -> list[int]:
        """Return the living processes whose title holds a word, e.g. ``RayTrainWorker``."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and word in title and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return sorted(found)

    def kill(self) -> int:
        """Kill everything on the node at once; return how many processes there were."""
        victims = self.processes()
        # Stopped first, so that none sees another one die before it dies itself.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        psutil.wait_procs(victims, timeout=10)
        self.process.wait()
        return len(victims)


@dataclass
class RayNodes:
    """A head without places for workers, and nodes with two places each.

    Attributes:
        folder: of Ray's own files.
        separate: whether nodes have addresses of their own.
        nodes: that live, by name; not the head.
    """

    folder: Path
    separate: bool
    port: int = 0
    head: Node | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    _count: int = 0
    _newest: Node | None = None

    @property
    def head_address(self) -> str:
        """IP address of the head."""
        return f"{_NET}.1" if self.separate else "127.0.0.1"

    @property
    def address(self) -> str:
        """What ``RAY_ADDRESS`` has to be."""
        return f"{self.head_address if self.separate else _own_address()}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a driver on the head."""
        return _environment(self.separate) | {"RAY_ADDRESS": self.address}

    def start_head(self) -> None:
        """Start the head and wait until it answers."""
        self.port = _free_port()
        words = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false",
                 f"--temp-dir={self.folder}", f"--ray-client-server-port={_free_port()}"]  # fmt: skip
        self.head = self._start("head", self.head_address, words, None)
        end = time.monotonic() + _START_SECONDS
        host, port = self.address.rsplit(":", 1)
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the head did not start:\n{self._log('head').read_text()[-2000:]}")

    def add(self, cpus: int = 2) -> Node:
        """Start one more node; it joins in a few seconds."""
        # Two that start at once on one machine take the same names for their sockets.
        self.wait_for_newest()
        self._count += 1
        name = f"node{self._count}"
        namespace = None
        address = f"{_NET}.{10 + self._count}"
        if self.separate:
            namespace = f"{_BRIDGE}-{self._count}"
            _make_namespace(namespace, address, self._count)
        words = [f"--address={self.address}", f"--num-cpus={cpus}"]
        node = self._start(name, address if self.separate else "", words, namespace)
        self.nodes[name] = self._newest = node
        return node

    def wait_for_newest(self) -> None:
        """Wait until the node that was added last has joined, or was killed.

        Raises:
            RuntimeError: it did not start.
        """
        end = time.monotonic() + _START_SECONDS
        while self._newest is not None and self._newest.name in self.nodes:
            said = self._log(self._newest.name).read_text()
            if "Ray runtime started" in said:
                return
            if self._newest.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self._newest.name} did not start:\n{said[-1000:]}")
            time.sleep(0.1)

    def kill(self, node: Node) -> int:
        """Let a node die with its network; return how many processes it had."""
        count = node.kill()
        self.nodes.pop(node.name)
        if node.namespace is not None:
            _ip("netns", "del", node.namespace, check=False)
        return count

    def find(self, word: str) -> list[int]:
        """Return the processes of all nodes whose title holds a word."""
        return [pid for node in self._all() for pid in node.find(word)]

    def close(self) -> None:
        """Kill every node, and remove namespaces and bridge."""
        for node in list(self.nodes.values()):
            self.kill(node)
        if self.head is not None:
            self.head.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Node]:
        return [*([self.head] if self.head else []), *self.nodes.values()]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, name: str, address: str, words: Sequence[str], namespace: str | None) -> Node:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        own = [f"--node-ip-address={address}"] if address else []
        command = [*inside, str(_PROGRAMS / "ray"), "start", "--block", "--disable-usage-stats", *own, *words,
                   "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]  # fmt: skip
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=_environment(self.separate), start_new_session=True
            )
        return Node(name, address, process, namespace)


@contextlib.contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """Yield an empty cluster, and leave nothing behind."""
    # Names of sockets below it may have 107 bytes.
    clean_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-", dir="/tmp"))
    separate = _make_bridge()
    cluster = RayNodes(folder, separate)
    try:
        yield cluster
    finally:
        cluster.close()
        if separate:
            _clean_network(_BRIDGE)


def _environment(separate: bool) -> dict[str, str]:
    left_out = {"RAY_ADDRESS", "VAVL_ROOT", "MLFLOW_TRACKING_URI"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    # The name of this machine leads out of a namespace; gloo has to take the namespace's own address.
    interface = {"GLOO_SOCKET_IFNAME": "eth0"} if separate else {}
    return kept | _QUICK | interface | {"PATH": path}


def _make_bridge() -> bool:
    """Make the bridge; False where the machine does not allow it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        # An address of its own: otherwise it would change with the nodes that come and go.
        _ip("link", "add", _BRIDGE, "address", "02:76:61:76:6c:01", "type", "bridge")
        _ip("addr", "add", f"{_NET}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        _make_namespace(f"{_BRIDGE}-0", f"{_NET}.10", 0)
        _ip("netns", "del", f"{_BRIDGE}-0")
    except subprocess.CalledProcessError:
        _clean_network(_BRIDGE)
        return False
    return True


def _make_namespace(name: str, address: str, number: int) -> None:
    outer = f"{_BRIDGE}v{number}"
    _ip("netns", "add", name)
    _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", outer, "master", _BRIDGE, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        _ip("-n", name, "link", "set", device, "up")


def clean_leftovers() -> None:
    """End what programs of this kind left that were killed themselves: processes, namespaces and bridges."""
    for folder in Path("/tmp").glob(f"{_FOLDERS}*"):
        owner = folder.name.split("-")[1]
        if not owner.isdecimal() or psutil.pid_exists(int(owner)):
            continue
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(folder) in " ".join(process.cmdline()):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    if os.geteuid() == 0 and shutil.which("ip") is not None:
        for line in _ip("-o", "link", "show", "type", "bridge", check=False).splitlines():
            found = re.search(rf"\b{_PREFIX}(\d+):", line)
            if found and not psutil.pid_exists(int(found[1])):
                _clean_network(f"{_PREFIX}{found[1]}")


def _clean_network(bridge: str) -> None:
    """Remove a bridge and the namespaces on it, with what runs in them."""
    for line in _ip("netns", "list", check=False).splitlines():
        name = line.split()[0]
        if not name.startswith(f"{bridge}-"):
            continue
        for pid in map(int, _ip("netns", "pids", name, check=False).split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _ip("netns", "del", name, check=False)
    _ip("link", "del", bridge, check=False)


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check).stdout


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("", 0))
        return int(place.getsockname()[1])


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
