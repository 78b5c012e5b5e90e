"""The GPU of a worker: asked for, absent, hidden; nodes are files that stand in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import silo.devices
from federation.errors import UsageError
from silo.config import WorkerConfig, load_worker_config
from silo.devices import check_device, gpu_nodes
from silo.doctor import examine_worker
from silo.worker.service import INHERITED, run_worker

WORKER = """apiVersion: concordat/v1
kind: Worker
silo: a
socket: worker.sock
scratch: scratch
device: gpu
datasets: {d: {format: csv, path: table.csv}}
"""


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "dev"
    place.mkdir()
    monkeypatch.setattr(silo.devices, "DEVICES", place)
    return place


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    (tmp_path / "table.csv").write_text("x,y\n1,0\n")
    path = tmp_path / "worker.yaml"
    path.write_text(WORKER)
    return path


def test_a_gpu_that_is_asked_for_has_to_be_there(nodes: Path) -> None:
    for name in ("nvidiactl", "nvidia-uvm"):  # the driver alone, as on a machine whose GPU is another container's
        (nodes / name).touch()
    check_device("auto")
    check_device("cpu")
    with pytest.raises(UsageError, match=r"got device: gpu and no GPU, expected .*nvidia0 or another"):
        check_device("gpu")
    (nodes / "nvidia3").touch()
    check_device("gpu")
    assert [node.name for node in gpu_nodes()] == ["nvidia-uvm", "nvidia3", "nvidiactl"]


def test_a_worker_without_its_gpu_does_not_start(nodes: Path, worker: Path) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="got device: gpu and no GPU"):
        run_worker(worker, said.append)
    assert said == []


def test_the_doctor_tells_whether_the_gpu_is_there(nodes: Path, worker: Path) -> None:
    (found,) = [one for one in examine_worker(worker) if one.check == "device"]
    assert "no GPU" in found.detail
    (nodes / "nvidia0").touch()
    (found,) = [one for one in examine_worker(worker) if one.check == "device"]
    assert found.detail.startswith(f"{nodes}/nvidia0;")
    worker.write_text(WORKER.replace("device: gpu\n", ""))
    assert not [one for one in examine_worker(worker) if one.check == "device"]


def test_a_trainer_sees_the_gpus_that_its_worker_may(worker: Path) -> None:
    assert "CUDA_VISIBLE_DEVICES" in INHERITED
    assert load_worker_config(worker).device == "gpu"
    assert WorkerConfig.model_fields["device"].default == "auto"


@pytest.mark.tensorflow
def test_the_template_starts_no_device_before_it_forks(tmp_path: Path) -> None:
    """CUDA does not survive a fork: each trainer starts it for itself."""
    code = (
        "import sys; from pathlib import Path\n"
        "from silo.worker.template import import_training\n"
        "import_training(Path(sys.argv[1]))\n"
        "from tensorflow.python.eager import context\n"
        "before = context.context()._physical_devices\n"
        "import tensorflow as tf; tf.config.list_physical_devices()\n"
        "print(before is None, context.context()._physical_devices is None)\n"
        "print('sklearn' in sys.modules, 'matplotlib' in sys.modules)\n"
        "import matplotlib, sklearn\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["True", "False", "False", "False"], "and Keras drags in nothing that it only wraps"
