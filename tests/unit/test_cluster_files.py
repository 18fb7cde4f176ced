"""The files that make a cluster: valid, closed to the world, without secrets, and of the pinned versions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from vavl.job_config import JOB_SETTINGS
from vavl.submission.submission import check_configuration

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "ray_cluster.yaml"
KUBERNETES = ROOT / "jobs/kubernetes"
FILES = [CLUSTER, *sorted(KUBERNETES.iterdir()), ROOT / "jobs/runtime_env.yaml", ROOT / "jobs/configs/submit.yaml"]
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z0-9]{20}|://[^/\s]*:[^/@\s]*@|"
    r"(password|secret_access_key|auth_token|api_key)\s*[:=]\s*['\"]?[A-Za-z0-9]"
)


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.removeprefix(f"{package}==") for line in lines if line.startswith(f"{package}=="))


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(CLUSTER.read_text())
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    assert not SECRET.search(path.read_text())


@pytest.mark.parametrize("text", ["password: hunter2", "https://me:pw@host", "AKIAABCDEFGHIJKLMNOP"])
def test_the_search_for_secrets_finds_one(text):
    assert SECRET.search(text)


def test_rays_own_schema_accepts_the_cluster(cluster):
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["setup_commands"] == cluster["setup_commands"]


def test_rays_own_schema_refuses_a_misspelt_key(cluster):
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(cluster | {"idle_timeout": 3}))


def test_gpu_workers_come_from_zero_on_spot_machines_and_go_when_idle(cluster):
    head, gpu = (cluster["available_node_types"][name] for name in ("head", "gpu"))
    assert (gpu["min_workers"], gpu["max_workers"], cluster["max_workers"]) == (0, 4, 4)
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["resources"]["GPU"] == 1
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    assert 0 < cluster["idle_timeout_minutes"] <= 30
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_every_machine_is_in_the_closed_group_and_no_port_is_opened(cluster):
    for machine in cluster["available_node_types"].values():
        assert machine["node_config"]["SecurityGroupIds"] == ["sg-REPLACE"]
    assert "security_group" not in cluster["provider"]
    assert "0.0.0.0" not in CLUSTER.read_text()


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_ray_starts_with_token_root_and_time_for_a_checkpoint(cluster, key):
    (start,) = [command for command in cluster[key] if "ray start" in command]
    words = shlex.split(start)
    assert {"RAY_AUTH_MODE=token", "VAVL_ROOT=/mnt/vavl", "RAY_JOB_STOP_WAIT_TIME_S=60"} <= set(words)
    if "--head" in words:
        assert "--dashboard-host=127.0.0.1" in words
    assert any("nfs4" in command for command in cluster["initialization_commands"])
    assert "--volume /mnt/vavl:/mnt/vavl" in cluster["docker"]["run_options"]


def test_every_package_is_installed_with_the_constraints(cluster):
    commands = [
        command
        for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")
        for command in cluster[key]
    ]
    commands += re.findall(r"pip install [^\n]*", (KUBERNETES / "Dockerfile").read_text())
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 4
    assert all("--constraint" in command and "constraints.txt" in command for command in installs)


def test_what_is_copied_is_there(cluster):
    sources = [source for source in cluster["file_mounts"].values() if not source.startswith("~")]
    assert {"constraints.txt", "platform", "pyproject.toml"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_images_are_of_the_pinned_ray_and_python(cluster):
    wanted = f"rayproject/ray:{pinned('ray')}-py311-"
    images = [cluster["docker"]["head_image"], cluster["docker"]["worker_image"]]
    images += re.findall(r"^FROM (\S+)", (KUBERNETES / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 3
    assert all(image.startswith(wanted) for image in images)
    assert f"torch=={pinned('torch')}" in CLUSTER.read_text()


@pytest.fixture
def documents() -> dict[str, Any]:
    """Return the Kubernetes objects by kind."""
    found = [
        document for path in sorted(KUBERNETES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
    ]
    return {document["kind"]: document for document in found}


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for pod in pods(job):
        yield from pod["spec"]["containers"]


def test_the_ray_job_has_what_kuberay_needs(documents):
    job = documents["RayJob"]
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert job["apiVersion"] == "ray.io/v1"
    assert cluster["rayVersion"] == pinned("ray")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert cluster["enableInTreeAutoscaling"] is True
    (gpu,) = cluster["workerGroupSpecs"]
    assert (gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == (0, 0, 4)
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_command_of_the_ray_job_is_a_valid_job(documents):
    program, job, config, *overrides = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert (program, job) == ("python", "jobs/train_model.py")
    check_configuration(JOB_SETTINGS[Path(job).stem], ROOT / config, tuple(overrides))


def test_every_container_is_pinned_limited_and_unprivileged(documents):
    found = list(containers(documents["RayJob"]))
    assert [container["name"] for container in found] == ["ray-job-submitter", "ray-head", "ray-worker"]
    for container in found:
        assert re.fullmatch(r"\S+/vavl:\d+\.\d+\.\d+", container["image"])
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert all(pod["spec"]["securityContext"]["runAsNonRoot"] is True for pod in pods(documents["RayJob"]))


def test_secrets_come_by_reference_only(documents):
    job = documents["RayJob"]
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "Secret" not in documents
    for container in list(containers(job))[1:]:
        assert {entry["name"] for entry in container["env"]} == {"VAVL_ROOT", "RAY_JOB_STOP_WAIT_TIME_S"}
        assert container["envFrom"] == [{"secretRef": {"name": "vavl-secrets", "optional": True}}]


def test_results_lie_on_the_shared_volume(documents):
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(documents["RayJob"])[1:]:
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        root = next(entry["value"] for entry in container["env"] if entry["name"] == "VAVL_ROOT")
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": root}]


def test_the_policy_closes_every_pod_but_to_its_own_and_the_operator(documents):
    policy = documents["NetworkPolicy"]["spec"]
    label = policy["podSelector"]["matchLabels"]
    assert all(pod["metadata"]["labels"] == label for pod in pods(documents["RayJob"]))
    assert policy["policyTypes"] == ["Ingress"]
    own, operator = policy["ingress"]
    assert own["from"] == [{"podSelector": {"matchLabels": label}}]
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert documents["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
