"""What `deploy/` describes to Kubernetes and to Compose: offline, against their own schemas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="pip install --group test")
kubernetes = pytest.importorskip("kubernetes_validate", reason="pip install --group test")
DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
COMPOSE = DEPLOY / "compose" / "compose.yaml"
OLDEST, NEWEST = "1.28", "1.35"  # of Kubernetes


def documents(path: Path) -> list[dict[str, Any]]:
    """Read a file's objects."""
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def objects(kind: str) -> list[dict[str, Any]]:
    """Return all objects of a kind."""
    return [one for path in MANIFESTS for one in documents(path) if one["kind"] == kind]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(path: Path, version: str) -> None:
    """Strictly: a field that it does not know is an error."""
    for one in documents(path):
        if one["kind"] != "Kustomization":
            kubernetes.validate(one, version, strict=True)


def test_an_unknown_field_is_found() -> None:
    """So that the test above can fail."""
    (broken,) = documents(DEPLOY / "kubernetes" / "namespace.yaml")
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate({**broken, "replicas": 2}, NEWEST, strict=True)


def test_kustomize_names_every_file_but_the_example() -> None:
    (own,) = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    others = {path.name for path in MANIFESTS} - {"kustomization.yaml", "secrets.example.yaml"}
    assert set(own["resources"]) == others


def test_what_manifests_name_is_there() -> None:
    """Volumes that are mounted, claims, secrets, the services' pods, the node's join file."""
    claims = {one["metadata"]["name"] for one in objects("PersistentVolumeClaim")}
    secrets = {one["metadata"]["name"]: one["stringData"] for one in objects("Secret")}
    (deployment,), (nodes,) = objects("Deployment"), objects("StatefulSet")
    labels = []
    for one in (deployment, nodes):
        pod = one["spec"]["template"]
        labels.append(pod["metadata"]["labels"])
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        templates = [
            each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", ())
        ]
        (container,) = pod["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == volumes.keys() | set(templates)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
        assert one["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    names = {service["metadata"]["name"] for service in objects("Service")}
    assert nodes["spec"]["serviceName"] in names
    for service in objects("Service"):
        assert service["spec"]["selector"] in labels
    replicas = range(nodes["spec"]["replicas"])
    assert set(secrets["dure-join"]) == {f"{nodes['metadata']['name']}-{n}" for n in replicas}


def test_compose_knows_every_field() -> None:
    """By the Compose Specification's schema; `check-jsonschema` has it, so nothing is downloaded."""
    pytest.importorskip("check_jsonschema", reason="pip install --group test")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*words, COMPOSE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_compose_starts_is_in_the_image() -> None:
    """Its programs are copied there, and its secrets, volumes and networks are declared."""
    (compose,) = documents(COMPOSE)
    image = (DEPLOY / "container" / "Containerfile").read_text()
    for service in compose["services"].values():
        assert f"/usr/local/bin/{service['entrypoint'][0]}" in image
        named = [one.split(":")[0] for one in service["volumes"] if not one.startswith("${")]
        assert set(named) <= compose["volumes"].keys()
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
        assert service["networks"].keys() <= compose["networks"].keys()
