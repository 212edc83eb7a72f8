"""The cluster files are what Ray and KubeRay read: the launcher's by Ray's own schema, the rest by lists of the fields used."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
LAUNCHER = {"aws": CLUSTER / "aws.yaml", "gcp": CLUSTER / "gcp.yaml"}
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
LOCK = Path(__file__).parents[2] / "requirements.lock"

# Ray's schema does not look inside these. AWS: fields of EC2's RunInstances; GCP: of Compute Engine's instances.insert.
PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "gcp": {"type", "region", "availability_zone", "project_id", "use_internal_ips", "cache_stopped_nodes"},
}
NODE = {
    "aws": {"InstanceType": str, "ImageId": str, "IamInstanceProfile": {"Name": str, "Arn": str}, "KeyName": str, "SubnetIds": list,
            "SecurityGroupIds": [str],
            "MetadataOptions": {"HttpTokens": str}, "InstanceMarketOptions": {"MarketType": str, "SpotOptions": dict},
            "BlockDeviceMappings": [{"DeviceName": str, "Ebs": {"VolumeSize": int, "VolumeType": str, "Encrypted": bool}}]},
    "gcp": {"machineType": str, "serviceAccounts": [{"email": str, "scopes": list}], "metadata": {"items": [{"key": str, "value": str}]},
            "shieldedInstanceConfig": {"enableSecureBoot": bool},
            "disks": [{"boot": bool, "autoDelete": bool, "type": str, "initializeParams": {"diskSizeGb": int, "sourceImage": str}}],
            "scheduling": [{"provisioningModel": str, "instanceTerminationAction": str, "onHostMaintenance": str,
                            "automaticRestart": bool, "preemptible": bool}]},
}
CONTAINER = {"name": str, "image": str, "ports": [{"containerPort": int, "name": str}], "env": [{"name": str, "value": str}],
             "resources": {"requests": dict, "limits": dict}, "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}]}
POD = {"spec": {"containers": [CONTAINER], "tolerations": [{"key": str, "operator": str, "effect": str}],
                "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}]}}
RAY_CLUSTER = {
    "rayVersion": str, "authOptions": {"mode": str}, "enableInTreeAutoscaling": bool, "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"serviceType": str, "rayStartParams": dict, "template": POD},
    "workerGroupSpecs": [{"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict,
                          "template": POD}],
}
KUBERAY = {
    "kuberay-cluster": {"apiVersion": str, "kind": str, "metadata": {"name": str}, "spec": RAY_CLUSTER},
    "kuberay-job": {"apiVersion": str, "kind": str, "metadata": {"name": str},
                    "spec": {"entrypoint": str, "submissionMode": str, "shutdownAfterJobFinishes": bool,
                             "ttlSecondsAfterFinished": int, "backoffLimit": int, "rayClusterSpec": RAY_CLUSTER}},
}


def problems(value, form, where=""):
    """Where a value is not of a form: a type, a list of one form, or a dictionary of the fields that may be there."""
    if isinstance(form, type):
        wrong = not isinstance(value, form) or (form is int and isinstance(value, bool))
        return [f"{where}: {value!r} is no {form.__name__}"] if wrong else []
    if not isinstance(value, type(form)):
        return [f"{where}: {value!r} is no {type(form).__name__}"]
    if isinstance(form, list):
        return [p for i, item in enumerate(value) for p in problems(item, form[0], f"{where}[{i}]")]
    unknown = [f"{where}.{key}: unknown" for key in value if key not in form]
    return unknown + [p for key, item in value.items() if key in form for p in problems(item, form[key], f"{where}.{key}")]


def launcher_problems(kind, content):
    found = [f"{'.'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(SCHEMA).iter_errors(content)]
    found += [f"provider.{key}: unknown" for key in content.get("provider", {}) if key not in PROVIDER[kind]]
    types = content.get("available_node_types", {})
    for name, node in types.items():
        found += problems(node.get("node_config"), NODE[kind], name)
    if content.get("head_node_type") not in types:
        found.append("head_node_type: names no node type")
    return found


def kuberay_problems(kind, content):
    found = problems(content, KUBERAY[kind])
    if content.get("apiVersion") != "ray.io/v1":
        found.append("apiVersion")
    if content.get("kind") != {"kuberay-cluster": "RayCluster", "kuberay-job": "RayJob"}[kind]:
        found.append("kind")
    return found


def load(path):
    return yaml.safe_load(path.read_text())


def ray_cluster(kind):
    spec = load(CLUSTER / f"{kind}.yaml")["spec"]
    return spec if kind == "kuberay-cluster" else spec["rayClusterSpec"]


@pytest.mark.parametrize("kind", LAUNCHER)
def test_launcher_files_are_valid(kind):
    assert launcher_problems(kind, load(LAUNCHER[kind])) == []


@pytest.mark.parametrize("kind", KUBERAY)
def test_kuberay_files_are_valid(kind):
    assert kuberay_problems(kind, load(CLUSTER / f"{kind}.yaml")) == []


def renamed(content, path, new):
    broken = copy.deepcopy(content)
    *parents, last = path
    at = broken
    for key in parents:
        at = at[key]
    at[new] = at.pop(last)
    return broken


@pytest.mark.parametrize(("kind", "path"), [
    ("aws", ["available_node_types"]),
    ("aws", ["provider", "type"]),
    ("aws", ["available_node_types", "head", "node_config", "SecurityGroupIds"]),
    ("aws", ["available_node_types", "gpu_spot", "node_config", "InstanceMarketOptions"]),
    ("aws", ["available_node_types", "gpu_spot", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeSize"]),
    ("gcp", ["head_start_ray_commands"]),
    ("gcp", ["provider", "project_id"]),
    ("gcp", ["available_node_types", "gpu_spot", "node_config", "scheduling", 0, "provisioningModel"]),
])
def test_a_misspelt_field_of_a_launcher_file_is_found(kind, path):
    assert launcher_problems(kind, renamed(load(LAUNCHER[kind]), path, "mispelt"))


@pytest.mark.parametrize(("kind", "path"), [
    ("kuberay-cluster", ["spec", "authOptions"]),
    ("kuberay-cluster", ["spec", "workerGroupSpecs", 0, "minReplicas"]),
    ("kuberay-cluster", ["spec", "headGroupSpec", "template", "spec", "containers", 0, "image"]),
    ("kuberay-job", ["spec", "entrypoint"]),
    ("kuberay-job", ["spec", "rayClusterSpec", "rayVersion"]),
])
def test_a_misspelt_field_of_a_kuberay_file_is_found(kind, path):
    assert kuberay_problems(kind, renamed(load(CLUSTER / f"{kind}.yaml"), path, "mispelt"))


@pytest.mark.parametrize("kind", LAUNCHER)
def test_a_value_of_the_wrong_kind_is_found(kind):
    content = load(LAUNCHER[kind])
    content["max_workers"] = "eight"
    assert any("max_workers" in problem for problem in launcher_problems(kind, content))


@pytest.mark.parametrize("kind", LAUNCHER)
def test_every_node_starts_with_a_token_and_the_dashboard_stays_on_loopback(kind):
    content = load(LAUNCHER[kind])
    assert any(place.endswith("/token") for place in content["file_mounts"])
    for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start and "RAY_AUTH_TOKEN_PATH=" in start
        assert any("test -s" in command for command in commands)
    head = " ".join(content["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head


@pytest.mark.parametrize("kind", LAUNCHER)
def test_workers_are_on_spot_and_the_head_runs_no_work(kind):
    types = load(LAUNCHER[kind])["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert "spot" in json.dumps(types["gpu_spot"]["node_config"]).lower()
    assert "spot" not in json.dumps(types["head"]["node_config"]).lower()


def test_the_autoscaler_knows_what_a_worker_has():
    """Ray looks it up for AWS alone; a type without resources is never asked for."""
    assert load(LAUNCHER["gcp"])["available_node_types"]["gpu_spot"]["resources"] == {"CPU": 8, "GPU": 1}


def test_the_launcher_makes_no_security_group():
    """Ray adds SSH from every address to one that it makes, whatever the file says."""
    content = load(LAUNCHER["aws"])
    assert "security_group" not in content["provider"]
    assert all(node["node_config"]["SecurityGroupIds"] for node in content["available_node_types"].values())


@pytest.mark.parametrize("kind", KUBERAY)
def test_a_kuberay_cluster_wants_a_token_and_opens_no_port_to_the_world(kind):
    spec = ray_cluster(kind)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_entrypoint_is_one_command():
    """KubeRay pastes it into a shell unquoted, after `ray job submit ... --`."""
    entrypoint = yaml.safe_load((CLUSTER / "kuberay-job.yaml").read_text())["spec"]["entrypoint"]
    assert entrypoint.startswith("env --chdir=/opt/readqg python -m jobs.run ") and not set(entrypoint) & set("&|;<>$`()\n")


def test_the_ray_in_the_files_is_the_one_that_is_pinned():
    pinned = next(line for line in LOCK.read_text().splitlines() if line.startswith("ray=="))
    for kind in KUBERAY:
        spec = ray_cluster(kind)
        assert f"ray=={spec['rayVersion']}" == pinned
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert all(c["image"].endswith(f":{spec['rayVersion']}") for c in group["template"]["spec"]["containers"])


def test_the_launcher_installs_from_the_lock_file():
    for path in LAUNCHER.values():
        content = load(path)
        assert "requirements.lock" in content["file_mounts"].values()
        assert any("-r ~/readqg/requirements.lock" in command for command in content["setup_commands"])


def test_the_runtime_environment_is_one_that_ray_takes():
    from ray.runtime_env import RuntimeEnv

    content = load(CLUSTER / "runtime_env.yaml")
    assert set(content) <= {"pip", "env_vars", "config", "excludes"}
    content["pip"]["packages"] = str(LOCK)
    assert "torch" in str(RuntimeEnv(**{k: v for k, v in content.items() if k != "excludes"})["pip"])


def test_no_file_holds_a_secret():
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert "RAY_AUTH_TOKEN=" not in text and "AKIA" not in text and "BEGIN PRIVATE KEY" not in text
