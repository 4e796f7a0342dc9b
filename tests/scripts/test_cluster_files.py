"""The files for clusters: what Kubernetes is given, and what its image is made of."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskora import __version__
from tests.conftest import REPOSITORY

PINS = dict(
    line.split("==")
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
# What the definitions of KubeRay 1.7 know of ray.io/v1 and ask for, of what a batch has use for.
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy",
    "metadata", "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate",
    "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER = {
    "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
}  # fmt: skip
HEAD = {
    "enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType",
    "template",
}  # fmt: skip
WORKERS = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
    "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    text = (REPOSITORY / "scripts" / "kuberay-job.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def job(documents: list[Any]) -> dict[str, Any]:
    return documents[1]["spec"]


@pytest.fixture(scope="module")
def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The head and the workers."""
    cluster = job["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_job_is_as_kuberay_defines_it(
    documents: list[Any], job: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    kinds = [(one["apiVersion"], one["kind"]) for one in documents]
    assert kinds == [("v1", "PersistentVolumeClaim"), ("ray.io/v1", "RayJob")]
    assert job.keys() <= JOB
    assert job["rayClusterSpec"].keys() <= CLUSTER
    head, *workers = groups
    assert {"template"} <= head.keys() <= HEAD
    for group in workers:
        asked = {"groupName", "maxReplicas", "minReplicas", "template"}
        assert asked <= group.keys() <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups:
        values = group["rayStartParams"].values()
        assert all(isinstance(value, str) for value in values)  # a number would be refused


def test_every_pod_sees_the_volume_that_the_jobs_lie_on(
    documents: list[Any], job: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    claim = documents[0]
    assert "ReadWriteMany" in claim["spec"]["accessModes"]
    paths = re.findall(r"/data\S*", job["entrypoint"])
    assert len(paths) == 2
    for group in groups:
        pod = group["template"]["spec"]
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
        resources = container["resources"]
        assert resources["limits"] == resources["requests"]  # Kubernetes wants it of a GPU


def test_the_workers_have_a_gpu_and_the_head_has_none(groups: list[dict[str, Any]]) -> None:
    limits = [one["template"]["spec"]["containers"][0]["resources"]["limits"] for one in groups]
    assert ["nvidia.com/gpu" in one for one in limits] == [False, True]


def test_the_image_and_ray_are_of_the_versions_that_are_shipped(
    job: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    assert job["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    images = {one["template"]["spec"]["containers"][0]["image"] for one in groups}
    assert images == {f"maskora:{__version__}"}
    assert f"docker build --tag maskora:{__version__} ." in DOCKERFILE
    users = {one["template"]["spec"]["securityContext"]["runAsUser"] for one in groups}
    assert users == {int(re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[-1])}


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("needs hadolint (the dev extra, on Linux)")
    result = subprocess.run(
        [hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_the_image_is_of_pinned_parts_and_of_no_root() -> None:
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.04", base)
    assert "--constraint /opt/maskora/constraints.txt" in DOCKERFILE
    assert int(re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[-1]) > 0


def test_what_is_installed_is_copied_into_the_image_and_nothing_else() -> None:
    """What is left out by name would go in again where somebody adds a folder."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {line.removeprefix("!") for line in rules if line.startswith("!")}
    assert {"maskora", "gui_mask", "pyproject.toml", "README.md", "constraints.txt"} <= taken
    assert all((REPOSITORY / name).exists() for name in taken)
