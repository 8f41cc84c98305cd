"""The image, compose.yaml and the manifests: held against their schemas, and against what Autos is."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from service import __version__
from service.core.settings import Settings
from tests.certificates import make_certificate

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = ROOT / "compose.yaml"
PAGE = (ROOT / "docs" / "operations.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROXY = ROOT / "deploy" / "proxy"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
KUBECTL = shutil.which("kubectl")
KUBERNETES_VERSION = "1.36"
# Whose schemas no package brings: held against the fields that their documentation names, below.
CUSTOM = {"Kustomization", "ScaledObject", "PodMonitor"}
SCALED_OBJECT = {
    "scaleTargetRef": {"name", "kind", "apiVersion", "envSourceContainerName"},
    "pollingInterval": None,
    "cooldownPeriod": None,
    "initialCooldownPeriod": None,
    "idleReplicaCount": None,
    "minReplicaCount": None,
    "maxReplicaCount": None,
    "fallback": {"failureThreshold", "replicas", "behavior"},
    "advanced": {"restoreToOriginalReplicaCount", "horizontalPodAutoscalerConfig", "scalingModifiers"},
    "triggers": None,
}
TRIGGER = {"type", "name", "metadata", "metricType", "useCachedMetrics", "authenticationRef"}
PROMETHEUS = {
    "serverAddress", "query", "threshold", "activationThreshold", "namespace", "customHeaders",
    "ignoreNullValues", "queryParameters", "unsafeSsl", "timeout", "authModes",
}  # fmt: skip
OF_SERVERS = {
    "postgres": {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "store": {"RCLONE_AUTH_KEY"},
}
OF_PYTHON = {
    "PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_CACHE_DIR",
}  # fmt: skip
LAST_POLL_S = 10


@cache
def _manifests() -> dict[str, list[dict[str, Any]]]:
    found = sorted(KUBERNETES.rglob("*.yaml"))
    return {str(path.relative_to(KUBERNETES)): list(yaml.safe_load_all(path.read_text())) for path in found}


def _of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for those in _manifests().values() for one in those if one["kind"] == kind]


def _named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in _of_kind(kind) if one["metadata"]["name"] == name]
    return found


def _pods(manifests: list[dict[str, Any]] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in manifests or [*_of_kind("Deployment"), *_of_kind("Job")]:
        if one["kind"] in ("Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def _variables() -> set[str]:
    aliases = {name: field.validation_alias for name, field in Settings.model_fields.items()}
    return {alias if isinstance(alias, str) else f"AUTOS_{name.upper()}" for name, alias in aliases.items()}


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def _env_example(name: str = "autos") -> dict[str, str]:
    text = (ROOT / "deploy" / "compose" / f"{name}.env.example").read_text()
    return dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def test_every_manifest_is_one_that_kubernetes_takes() -> None:
    for name, those in _manifests().items():
        for one in those:
            if one["kind"] not in CUSTOM:
                kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)
                assert not one["apiVersion"].endswith("beta1"), name


def test_a_manifest_with_a_mistake_is_refused() -> None:
    api = json.loads(json.dumps(_named("Deployment", "autos-api")))
    api["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(api, KUBERNETES_VERSION, strict=True)


def test_the_kustomization_names_every_file_that_is_no_example() -> None:
    for folder in (KUBERNETES, KUBERNETES / "autoscaling"):
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
        assert set(named) == there


def test_the_image_that_is_named_is_that_of_this_release() -> None:
    (image,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == __version__


def test_pods_are_given_settings_that_there_are_and_nothing_to_break_out_with() -> None:
    given = [*_named("ConfigMap", "autos")["data"], *_named("Secret", "autos")["stringData"]]
    assert set(given) <= _variables()
    for name, pod in _pods():
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {"configMapRef": {"name": "autos"}}, {"secretRef": {"name": "autos"}},
        ], name  # fmt: skip
        assert pod["securityContext"]["runAsNonRoot"], name
        assert (
            f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in DOCKERFILE
        )
        secured = container["securityContext"]
        assert secured["readOnlyRootFilesystem"], name
        assert not secured["allowPrivilegeEscalation"], name
        assert secured["capabilities"] == {"drop": ["ALL"]}, name


def _settings(given: dict[str, str]) -> Settings:
    return Settings.model_validate({name.removeprefix("AUTOS_").lower(): one for name, one in given.items()})


def test_probes_ask_where_autos_answers() -> None:
    settings = _settings(_named("ConfigMap", "autos")["data"])
    for name, port in (("autos-api", settings.port), ("autos-worker", settings.worker_port)):
        (container,) = _named("Deployment", name)["spec"]["template"]["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        for probe, path in paths.items():
            asked = container[probe]["httpGet"]
            assert (asked["path"], ports[asked["port"]]) == (path, port), (name, probe)


def test_a_pod_has_more_time_to_end_than_it_takes_and_the_notice_outlasts_the_looks_of_a_proxy() -> None:
    settings = _settings(_named("ConfigMap", "autos")["data"])
    api = _named("Deployment", "autos-api")["spec"]["template"]["spec"]
    worker = _named("Deployment", "autos-worker")["spec"]["template"]["spec"]
    assert api["terminationGracePeriodSeconds"] > settings.drain_notice_s + settings.drain_s
    assert worker["terminationGracePeriodSeconds"] > LAST_POLL_S + settings.drain_s
    looks = api["containers"][0]["readinessProbe"]
    assert settings.drain_notice_s > looks["periodSeconds"] * looks["failureThreshold"]


def test_what_selects_pods_finds_them() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in _of_kind("Deployment")]
    selectors = [one["spec"]["selector"] for one in _of_kind("Service") if "selector" in one["spec"]]
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        selectors += [one["spec"]["selector"]["matchLabels"] for one in _of_kind(kind)]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in _of_kind("NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= those.items() for those in labels), selector


def test_the_store_and_what_autos_calls_are_let_out() -> None:
    (policy,) = _of_kind("NetworkPolicy")
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert set(Settings.model_fields["webhook_ports"].default) <= ports


def test_the_namespace_is_made_before_the_secret_that_lies_in_it() -> None:
    steps = re.findall(r"^\d\. (.*)$", (ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE)
    (step,) = [step for step in steps if "the secret `autos`" in step]
    path = step[: step.index("the secret")].split("--filename ")[1].split("`")[0]
    (made,) = yaml.safe_load_all((ROOT / path).read_text())
    assert (made["kind"], made["metadata"]["name"]) == ("Namespace", "autos")


def test_what_only_some_have_is_let_out_by_lines_that_stand_there() -> None:
    text = (KUBERNETES / "network.yaml").read_text()
    line = r"^( +)# ( *(?:- .*|ports:|matchLabels: .*))$"
    policy = yaml.safe_load(re.sub(line, r"\1\2", text, flags=re.MULTILINE))
    kubernetes_validate.validate(policy, KUBERNETES_VERSION, strict=True)
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {6432, 26379, 4318, 9000} <= ports
    for name in ("config.yaml", "secret.example.yaml"):
        offered = re.findall(r"^ +# ([A-Z][A-Z0-9_]+): ", (KUBERNETES / name).read_text(), re.MULTILINE)
        assert offered, name
        assert set(offered) <= _variables(), name


def _wave(manifest: dict[str, Any]) -> int:
    return int(manifest["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0))


def test_argo_cd_brings_what_the_upgrade_needs_then_runs_it_and_then_starts_the_pods() -> None:
    upgrade = _named("Job", "autos-upgrade")
    # A PreSync hook would come before all that is no hook.
    assert upgrade["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
    needed = [
        _named(kind, "autos")
        for kind in ("Namespace", "ConfigMap", "ServiceAccount", "NetworkPolicy", "Secret")
    ]
    assert max(map(_wave, needed)) < _wave(upgrade) < min(map(_wave, _of_kind("Deployment")))


@pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl here")
def test_kubectl_builds_all_of_it_in_one_namespace_with_the_image_of_this_release() -> None:
    built = []
    for folder in (KUBERNETES, KUBERNETES / "autoscaling"):
        run = subprocess.run([str(KUBECTL), "kustomize", folder], capture_output=True, text=True, check=True)
        built += list(yaml.safe_load_all(run.stdout))
    named = [one for name, those in _manifests().items() if "kustomization" not in name for one in those]
    assert len(built) == len(named) - 1  # but for the secret
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in built} == {"autos"}
    images = {pod["containers"][0]["image"] for _, pod in _pods(built)}
    assert images == {f"registry.example/autos:{__version__}"}


def test_workers_are_counted_by_a_metric_that_there_is() -> None:
    spec = _of_kind("ScaledObject")[0]["spec"]
    for name, value in spec.items():
        members = SCALED_OBJECT[name]
        assert members is None or set(value) <= members
    assert _named("Deployment", spec["scaleTargetRef"]["name"])
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"  # nobody who works is ended for it
    (trigger,) = spec["triggers"]
    assert set(trigger) <= TRIGGER
    assert set(trigger["metadata"]) <= PROMETHEUS
    assert all(isinstance(value, str) for value in trigger["metadata"].values())  # KEDA takes nothing else
    (metric,) = re.findall(r"autos_\w+", trigger["metadata"]["query"])
    assert f"| `{metric}` |" in PAGE
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    scaler = {"scaleTargetRef": {"kind": "Deployment", "name": "x"}, "maxReplicas": 1, "behavior": behavior}
    kubernetes_validate.validate(
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {}, "spec": scaler},
        KUBERNETES_VERSION, strict=True,
    )  # fmt: skip


def test_compose_yaml_is_one_that_compose_takes() -> None:
    schemas = files("check_jsonschema.builtin_schemas") / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(_compose())
    with pytest.raises(jsonschema_rs.ValidationError):
        validator.validate({"services": {"api": {"imagee": "autos"}}})


def test_containers_of_compose_are_locked_in_and_have_time_to_end() -> None:
    given = _env_example()
    assert set(given) <= _variables()
    own = {name: value for name, value in given.items() if name.startswith("AUTOS_") and value}
    settings = _settings(own)
    services = _compose()["services"]
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service.get("depends_on", ())) <= set(services), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    for name in ("api", "worker"):
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > max(settings.drain_notice_s, LAST_POLL_S) + settings.drain_s
        assert services[name]["deploy"]["replicas"] == 2
    assert "noeviction" in str(services["redis"]["command"])


def test_a_server_of_compose_knows_its_own_secret_and_nothing_of_the_others() -> None:
    read = {
        name: service["env_file"] for name, service in _compose()["services"].items() if "env_file" in service
    }
    ours = dict.fromkeys(("upgrade", "api", "worker"), "deploy/compose/autos.env")
    assert read == ours | {name: f"deploy/compose/{name}.env" for name in OF_SERVERS}
    for name, variables in OF_SERVERS.items():
        given = _env_example(name)
        assert set(given) == variables
        assert len(set(re.findall(r"SECRET_\d", str(given)))) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_the_line_that_makes_secrets_makes_the_same_ones_in_all_files(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "compose", tmp_path / "deploy" / "compose")
    text = (ROOT / "deploy" / "compose" / "autos.env.example").read_text()
    command = "\n".join(re.findall(r"^#   (.*)$", text, re.MULTILINE))
    subprocess.run(["sh", "-euc", command], cwd=tmp_path, check=True)
    made = {path.stem: path.read_text() for path in (tmp_path / "deploy" / "compose").glob("*.env")}
    assert made.keys() == {"autos", *OF_SERVERS}
    assert not re.search(r"SECRET_\d", "".join(made.values()))
    for name, variable in (("postgres", "POSTGRES_PASSWORD"), ("redis", "REDIS_PASSWORD")):
        (secret,) = re.findall(rf"^{variable}=([0-9a-f]{{40}})$", made[name], re.MULTILINE)
        assert f":{secret}@" in made["autos"]


def test_the_secrets_of_compose_agree_with_each_other() -> None:
    given = _env_example()
    for name in OF_SERVERS:
        given |= _env_example(name)
    assert f"{given['POSTGRES_USER']}:{given['POSTGRES_PASSWORD']}@" in given["DATABASE_URL"]
    assert f":{given['REDIS_PASSWORD']}@" in given["REDIS_URL"]
    keys = f"{given['AWS_ACCESS_KEY_ID']},{given['AWS_SECRET_ACCESS_KEY']}"
    assert given["RCLONE_AUTH_KEY"] == f"'\"{keys}\"'"
    assert _compose()["services"]["bucket"]["entrypoint"][-1] == f"/data/{given['AUTOS_BUCKET']}"


def test_the_image_starts_what_there_is_as_nobody_in_particular_without_a_shell() -> None:
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    for instruction in ("ENTRYPOINT", "CMD", r"HEALTHCHECK .*CMD"):
        (words,) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
        assert json.loads(words)
    copied = re.findall(r"^COPY (?:--from=\S+ )?(.+) \S+$", DOCKERFILE, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in (one for one in copied if not one.startswith(("/", "$"))):
        assert (ROOT / path).exists()
        assert any(path.startswith(line[1:]) for line in ignored if line.startswith("!")), path
    lines = re.findall(r"^ENV (?:.*\\\n)*.*$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"\b([A-Z][A-Z0-9_]+)=\S", " ".join(lines))) <= _variables() | OF_PYTHON
    assert " container=" in " ".join(lines)  # for the doctor: service/checkup/loopback.py
    settings = _settings({})
    assert f"EXPOSE {settings.port} {settings.worker_port}" in DOCKERFILE


def test_the_image_runs_the_python_that_the_suite_may_run() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split(".")))


@pytest.mark.skipif(NGINX is None, reason="there is no nginx here (on Debian: apt-get install nginx-light)")
def test_nginx_takes_the_example(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    text = (PROXY / "autos.conf").read_text()
    for there, here in (
        ("/etc/ssl/autos/fullchain.pem", made.path), ("/etc/ssl/autos/privkey.pem", made.key_path),
        ("/etc/nginx/", f"{PROXY}/"), ("/var/log/nginx", tmp_path),
    ):  # fmt: skip
        assert there in text
        text = text.replace(there, str(here))
    (tmp_path / "nginx.conf").write_text(
        f"events {{}}\npid {tmp_path}/pid;\nerror_log stderr;\nhttp {{\n{text}\n}}\n"
    )
    looked = subprocess.run(
        [str(NGINX), "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
    )
    assert looked.returncode == 0, looked.stderr
