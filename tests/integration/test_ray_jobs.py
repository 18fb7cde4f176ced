"""Jobs submitted to a real cluster: `ray start --head` on loopback with a token, as a person would start it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from own_process import ROOT, free_port, wait_until

from vavl.training.stop import stop_request

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("clusters")]

PROGRAMS = Path(sys.executable).parent
ENTRY = ["--runtime-env", "jobs/runtime_env.yaml", "--working-dir", ".", "--"]


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: its own temporary directory.
        port: of dashboard and job server.
        root: directory that its nodes have as VAVL_ROOT.
        environment: of a client with the token.
    """

    folder: Path
    port: int
    root: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def without_token(self) -> dict[str, str]:
        kept = {key: value for key, value in self.environment.items() if not key.startswith("RAY_AUTH")}
        return kept | {"RAY_AUTH_MODE": "disabled"}

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        settings = {"cwd": ROOT, "env": self.environment, "timeout": 400} | options
        return subprocess.run([*words], capture_output=True, text=True, check=False, **settings)

    def submit_by_ray(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("ray", "job", "submit", "--address", self.address, *words)

    def submit(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "jobs/submit_job.py", "jobs/configs/submit.yaml",
                        f"address={self.address}", *words, **options)  # fmt: skip

    def ask(self, path: str = "", method: str = "GET", headers: dict[str, str] | None = None) -> Any:
        """Ask Ray's job server by its REST API: a command of Ray imports for seconds first.

        Raises:
            HTTPError: the server refuses.
        """
        token = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        request = urllib.request.Request(
            f"{self.address}/api/jobs/{path}", method=method, headers=token if headers is None else headers
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def end_of(self, submission_id: str) -> tuple[str, int | None]:
        """Return status and exit code of a job."""
        details = self.ask(submission_id)
        return details["status"], details["driver_exit_code"]

    def stop(self, submission_id: str) -> None:
        """Ask for the stop of a job as ``ray job stop`` does."""
        assert self.ask(f"{submission_id}/stop", "POST")["stopped"]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that name the cluster's directory in their command or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join(process.cmdline()) or str(folder) in process.cwd():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Ray's sockets lie below this directory, and their names may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="vavl-", dir="/tmp"))
    root = tmp_path_factory.mktemp("root")
    (folder / "token").write_text(secrets.token_hex(32))
    left_out = {"RAY_ADDRESS", "MLFLOW_TRACKING_URI", "VAVL_ROOT", "VAVL_DEMO_ROOT"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | {
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_worker_niceness": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "3",  # the runtime environment of the jobs asks for more
    }
    port = free_port()
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}/ray", f"--port={free_port()}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--disable-usage-stats",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    with (folder / "start.log").open("w") as log:
        head = subprocess.Popen(
            command, env=environment | {"VAVL_ROOT": str(root)}, stdout=log, stderr=log, start_new_session=True
        )
    made = Cluster(folder, port, root, environment)
    try:
        wait_until(partial(answers_to, made, head), said=(folder / "start.log").read_text, pause=0.5)
        yield made
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            head.kill()
        left = processes_of(folder)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def answers_to(cluster: Cluster, head: subprocess.Popen[bytes]) -> bool:
    assert head.poll() is None, (cluster.folder / "start.log").read_text()
    with contextlib.suppress(OSError):
        cluster.ask()
        return True
    return False


def test_a_job_runs_there_with_variables_by_name_and_its_results_lie_under_the_root(
    cluster: Cluster, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/named.db"
    done = cluster.submit(
        f"output_dir={tmp_path}", f"root={tmp_path}/root", "submission_id=checking",
        "environment=[MLFLOW_TRACKING_URI]",
        "job=jobs/check_setup.py", "config=jobs/configs/check_setup.yaml",
        "overrides=[try_imports=false, least_free_disk_gb=0.1, least_memory_gb=0.1]",
        env=cluster.environment | {"MLFLOW_TRACKING_URI": store},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() == {
        "submission_id", "status", "driver_exit_code", "address", "entrypoint", "seconds"
    }  # fmt: skip
    assert (summary["submission_id"], summary["status"], summary["driver_exit_code"]) == ("checking", "SUCCEEDED", 0)
    checks = json.loads((tmp_path / "root/runs/check_setup/summary.json").read_text())["checks"]
    assert next(check["found"] for check in checks if check["name"] == "tracking").startswith(store)
    assert "free_disk" in done.stdout or "tracking" in done.stdout  # the job's own table


@pytest.mark.slow
def test_an_extraction_runs_there_on_the_workers_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    few = "overrides=[corpus.sentences=1, corpus.takes=1, corpus.image_size_px=96]"
    for job, config, overrides in (
        ("make_demo_corpus", "demo_corpus", few),
        ("prepare_corpus", "prepare/demo", "overrides=[workers=2]"),
    ):
        done = cluster.submit(
            f"output_dir={tmp_path}", f"root={tmp_path}/root", f"job=jobs/{job}.py",
            f"config=jobs/configs/{config}.yaml", overrides,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 Ray workers extract" in done.stdout
    summary = json.loads((tmp_path / "root/runs/stores/demo/summary.json").read_text())
    assert (summary["clips"], summary["extracted"], summary["quarantined"]) == (72, 144, 0)


def test_the_jobs_own_exit_code_is_that_of_the_command(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.submit(
        f"output_dir={tmp_path}", f"root={tmp_path}/root", "job=jobs/prepare_corpus.py",
        "config=jobs/configs/prepare/demo.yaml", "overrides=[root=/nowhere]",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the directory of corpus demo does not exist" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["driver_exit_code"]) == ("FAILED", 2)


@pytest.mark.slow
def test_a_bad_configuration_fails_with_its_message_in_the_log(cluster: Cluster) -> None:
    done = cluster.submit_by_ray(
        "--submission-id", "bad", *ENTRY, "python", "jobs/train_model.py", "jobs/configs/demo.yaml",
        "training.workerz=2",
    )  # fmt: skip
    assert done.returncode == 1  # all that Ray's command knows
    assert cluster.end_of("bad") == ("FAILED", 2)
    assert "training.workerz: unknown key; did you mean `workers`" in cluster.ask("bad/logs")["logs"]


def test_the_demo_training_is_stopped_with_a_checkpoint_and_goes_on_to_a_registered_model(
    cluster: Cluster, small_store: Callable[..., Path], small_corpus: Callable[..., Any]
) -> None:
    shutil.copytree(small_store(small_corpus(clips_per_speaker=20)), cluster.root / "runs/stores/demo")
    words = [
        *ENTRY, "python", "jobs/train_model.py", "jobs/configs/demo.yaml", "model.width=16", "model.attention_heads=2",
        "data.composition.batch_size=8", "training.max_epochs=20", "training.checkpoint_every_epochs=20",
    ]  # fmt: skip
    run = cluster.root / "runs/demo"
    cluster.submit_by_ray("--no-wait", "--submission-id", "first", *words)
    wait_until(lambda: '"kind": "step"' in read_if_there(run / "journal.jsonl"))
    # The workers stand still until the request is there: it takes longer to arrive than such a small run to end.
    with paused(train_workers(cluster)):
        cluster.stop("first")
        wait_until(lambda: stop_request(run))
    # Ray leaves 3 s by itself; the runtime environment of the jobs asks for 60.
    wait_until(lambda: cluster.end_of("first") == ("STOPPED", None), 120)
    log = cluster.ask("first/logs")["logs"]
    assert "stopped as asked; a checkpoint holds step" in log
    step = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("*/step-*"))

    # One process is enough to show that it goes on; the walk registers a model of two workers.
    alone = ("training.launcher=in_process", "training.workers=1", "training.engine=torch", "training.zero_stage=0")
    done = cluster.submit_by_ray("--submission-id", "second", *words, *alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.end_of("second") == ("SUCCEEDED", 0)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < step < summary["steps"]
    assert (summary["model_name"], summary["model_version"], summary["workers"]) == ("vavl-demo", "1", 1)
    assert (cluster.root / "runs/mlflow.db").is_file()
    assert "output_dir: runs/demo\n" in (run / "config.yaml").read_text()  # nothing of the root


def read_if_there(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def train_workers(cluster: Cluster) -> list[psutil.Process]:
    return [one for one in processes_of(cluster.folder) if "RayTrainWorker" in " ".join(one.cmdline())]


@contextlib.contextmanager
def paused(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes with SIGSTOP and let them go on at the end."""
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_interrupting_the_watcher_leaves_the_job_running(
    cluster: Cluster, small_store: Callable[..., Path], small_corpus: Callable[..., Any], tmp_path: Path
) -> None:
    store = small_store(small_corpus(clips_per_speaker=20))
    words = [
        sys.executable, "jobs/submit_job.py", "jobs/configs/submit.yaml", f"address={cluster.address}",
        f"output_dir={tmp_path}", f"root={tmp_path}/root", "submission_id=left", "job=jobs/train_model.py",
        "config=jobs/configs/demo.yaml",
        # It waits for workers that nobody has, and costs nothing meanwhile.
        f"overrides=[data.store={store}, data.composition.batch_size=8, training.workers=9]",
    ]  # fmt: skip
    # A shell that starts the tests in the background lets what they start ignore Ctrl-C.
    watcher = subprocess.Popen(
        words, cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  nothing but this call
    )  # fmt: skip
    assert watcher.stdout is not None
    for line in watcher.stdout:
        if line.startswith("Running entrypoint"):
            break
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(120) == 1
    assert cluster.end_of("left") == ("RUNNING", None)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "RUNNING"
    cluster.stop("left")
    wait_until(lambda: cluster.end_of("left") == ("STOPPED", None))


def test_a_client_without_the_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    for headers in ({}, {"Authorization": f"Bearer {'0' * 64}"}):
        with pytest.raises(urllib.error.HTTPError, match=r"HTTP Error 40[13]"):
            cluster.ask(headers=headers)
    cluster.ask()
    ours = cluster.submit(f"output_dir={tmp_path}", env=cluster.without_token)
    assert ours.returncode == 1
    assert "the cluster wants a token" in ours.stderr
    assert "export RAY_AUTH_MODE=token" in ours.stderr


def test_dashboard_and_job_server_listen_on_loopback_only(cluster: Cluster) -> None:
    listening = [
        entry.laddr.ip
        for entry in psutil.net_connections("inet")
        if entry.status == psutil.CONN_LISTEN and entry.laddr.port == cluster.port
    ]
    assert listening == ["127.0.0.1"]
