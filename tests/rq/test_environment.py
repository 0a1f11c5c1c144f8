"""Caps of frameworks that have no variable for one, in whichever order things are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.units import GIB, MIB
from tests.rq import fakes, jobs
from tests.rq.conftest import Stage
from worker_hooks import current_lease
from worker_hooks.environment import entered

CAP = 4 * GIB - 500 * MIB


def run(code: str, folder: Path, memory: int = 4 * GIB) -> str:
    """What a process prints that has the fakes, and the environment of a lease; ``cap()`` is what a worker does."""
    for name, text in (("torch", fakes.TORCH), ("tensorflow", fakes.TENSORFLOW), ("onnxruntime", fakes.ONNXRUNTIME)):
        (folder / f"{name}.py").write_text(text)
    start = f"import os, sys; sys.path.insert(0, {str(folder)!r})\nfrom worker_hooks import cap_frameworks as cap\n"
    env = {**os.environ, "GPUBROKER_MEMORY_BYTES": str(memory)}
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr.strip()


@pytest.mark.parametrize("order", ["import torch; cap()", "cap(); import torch"])
def test_torch_is_capped_on_every_card_once_cuda_starts(tmp_path: Path, order: str) -> None:
    out = run(f"{order}\nprint(torch.cuda.fractions); torch.cuda.start(); print(torch.cuda.fractions)", tmp_path)
    assert out.splitlines() == ["{}", str({0: CAP / (8 * GIB), 1: CAP / (16 * GIB)})]


def test_the_next_job_of_the_process_gets_its_own_share(tmp_path: Path) -> None:
    code = "cap(); import torch\nos.environ['GPUBROKER_MEMORY_BYTES'] = str(3 << 30); cap(); torch.cuda.start()\n"
    assert run(code + "print(torch.cuda.fractions[0])", tmp_path) == str((3 * GIB - 500 * MIB) / (8 * GIB))


@pytest.mark.parametrize("order", ["import tensorflow as tf; cap()", "cap(); import tensorflow as tf"])
def test_tensorflow_has_a_limit_on_every_card(tmp_path: Path, order: str) -> None:
    assert run(f"{order}\nprint(tf.limits())", tmp_path) == str([[CAP // MIB], [CAP // MIB]])


def test_what_most_programs_ask_of_tensorflow_first_is_not_refused(tmp_path: Path) -> None:
    grow = "[tf.config.experimental.set_memory_growth(card, True) for card in tf.config.list_physical_devices('GPU')]"
    assert run(f"cap(); import tensorflow as tf; cap()\n{grow}\nprint(tf.config.growing)", tmp_path) == "{}"


def test_a_programs_own_limit_of_tensorflow_stays(tmp_path: Path) -> None:
    own = "tf.config.set_logical_device_configuration('GPU:1', [tf.config.LogicalDeviceConfiguration(1024)])"
    assert run(f"import tensorflow as tf; {own}; cap()\nprint(tf.limits())", tmp_path) == str([[CAP // MIB], [1024]])


def test_a_tensorflow_that_started_before_is_warned_of_and_not_broken(tmp_path: Path) -> None:
    out = run("import tensorflow as tf; tf.config.started = True; cap()\nprint('goes on')", tmp_path)
    assert out.startswith("goes on")
    assert "could not cap tensorflow: RuntimeError: Virtual devices" in out


LIMITED = {"arena_extend_strategy": "kSameAsRequested", "gpu_mem_limit": CAP}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(("asked", "got"), [
    (f"providers=['{CUDA}', '{CPU}']", ([(CUDA, LIMITED), CPU], None)),
    (f"None, ['{CUDA}']", ([(CUDA, LIMITED)], None)),
    (f"providers=[('{CUDA}', {{'device_id': 1}}), '{CPU}']", ([(CUDA, LIMITED | {"device_id": 1}), CPU], None)),
    (f"None, ['{CUDA}', '{CPU}'], [{{'device_id': 0}}, {{}}]", ([CUDA, CPU], [LIMITED | {"device_id": 0}, {}])),
    (f"providers=['{CUDA}', '{CPU}'], provider_options=[{{}}]", ([CUDA, CPU], [{}])),
    (f"providers=[('{CUDA}', {{'gpu_mem_limit': '1000'}})]", ([(CUDA, LIMITED | {"gpu_mem_limit": 1000})], None)),
    (f"providers=[('{CUDA}', {{'gpu_mem_limit': 10 << 40}})]", ([(CUDA, LIMITED)], None)),
    (f"providers=['{CPU}']", ([CPU], None)),
    ("", ([(CUDA, LIMITED), CPU], None)),
    ("ort.SessionOptions()", ([(CUDA, LIMITED), CPU], None)),
    ("ort.SessionOptions(named=True)", (None, None)),
])  # fmt: skip
def test_a_session_of_onnxruntime_has_a_limit(tmp_path: Path, asked: str, got: object) -> None:
    code = f"cap(); import onnxruntime as ort; cap()\ngot = ort.InferenceSession('m.onnx', {asked}).asked\n"
    # Compared there: the order of options is nobody's.
    assert run(f"{code}print(got == {got!r} or got)", tmp_path) == "True"


def test_a_class_of_the_users_that_is_a_session_has_a_limit(tmp_path: Path) -> None:
    code = "import onnxruntime as ort\nclass Mine(ort.InferenceSession): pass\ncap()\n"
    assert run(f"{code}print(Mine('m', providers=['{CUDA}']).asked)", tmp_path) == str(([(CUDA, LIMITED)], None))


def test_after_its_lease_a_process_is_capped_no_more(tmp_path: Path) -> None:
    code = "cap(); import onnxruntime as ort\ndel os.environ['GPUBROKER_MEMORY_BYTES']; cap()\n"
    assert run(f"{code}print(ort.InferenceSession('m', providers=['{CUDA}']).asked)", tmp_path) == str(([CUDA], None))


def test_a_job_without_frameworks_imports_none(tmp_path: Path) -> None:
    code = "cap()\nprint({'torch', 'tensorflow', 'onnxruntime', 'numpy'} & set(sys.modules))"
    assert run(code, tmp_path) == "set()"


def test_a_later_import_gets_its_own_loader_back_and_the_finder_leaves(tmp_path: Path) -> None:
    code = "before = list(sys.meta_path); cap(); import torch, onnxruntime, tensorflow\n"
    assert run(f"{code}print(type(torch.__spec__.loader).__name__, sys.meta_path == before)", tmp_path) == (
        "SourceFileLoader True"
    )


def test_to_look_whether_a_framework_is_there_is_not_to_import_it(tmp_path: Path) -> None:
    code = "from importlib.util import find_spec\ncap(); print(find_spec('torch') is not None)\nimport torch\n"
    out = run(f"{code}torch.cuda.start(); print(len(torch.cuda.fractions))", tmp_path)
    assert out.split() == ["True", "2"]


def test_other_finders_that_wait_for_imports_are_no_hindrance(tmp_path: Path) -> None:
    code = """
import importlib.util
class Theirs:
    asked = False
    def find_spec(self, name, path=None, target=None):
        if name != "torch" or Theirs.asked:
            return None
        Theirs.asked = True
        return importlib.util.find_spec(name)
class Old:  # as before Python 3.4
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(0, Theirs()); cap(); sys.meta_path.insert(0, Old())
import torch
torch.cuda.start(); print(len(torch.cuda.queued), len(torch.cuda.fractions))
"""
    assert run(code, tmp_path) == "1 2"


def test_an_import_that_failed_is_tried_again(tmp_path: Path) -> None:
    code = """
good = open(sys.path[0] + "/torch.py").read()
open(sys.path[0] + "/torch.py", "w").write("raise ImportError('no driver')")
cap()
try:
    import torch
except ImportError as error:
    print(error)
open(sys.path[0] + "/torch.py", "w").write(good + "# longer")
import torch
torch.cuda.start(); print(len(torch.cuda.fractions))
"""
    assert run(code, tmp_path).split("\n") == ["no driver", "2"]


def test_a_missing_framework_is_still_missing(tmp_path: Path) -> None:
    code = "cap(); os.remove(sys.path[0] + '/torch.py'); sys.path[1:] = []\n"
    code += "try:\n    import torch\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert run(code, tmp_path) == "No module named 'torch'"


@pytest.mark.parametrize("kind", [
    "worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker", "rq.worker.Worker",
])  # fmt: skip
def test_a_job_has_the_caps_and_a_users_smaller_one(stage: Stage, kind: str) -> None:
    job = jobs.caps.delay()
    stage.burst(kind, CUPY_GPU_MEMORY_LIMIT="25%", XLA_PYTHON_CLIENT_MEM_FRACTION="0.9")
    cap = 3 * GIB - 500 * MIB
    assert job.return_value() == {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{int(cap / (6 * GIB) * 1e6) / 1e6:.6f}",
        "CUPY_GPU_MEMORY_LIMIT": "25%",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "totals": [6 * GIB],
    }


def test_a_worker_that_was_handed_its_job_knows_how_large_the_card_is(stage: Stage) -> None:
    held = stage.broker.acquire("5GiB")
    stage.worker()
    stage.sitting()
    job = jobs.caps.delay()
    stage.parked(job)
    held.release()
    assert str([6 * GIB]) in stage.outcome(job)


def test_the_caps_follow_a_lease_that_is_resized(stage: Stage) -> None:
    lease = stage.broker.acquire("4GiB")
    before = dict(os.environ)
    with entered(lease):
        view = current_lease()
        assert view is not None
        view.resize("2GiB")
        assert os.environ["CUPY_GPU_MEMORY_LIMIT"] == str(2 * GIB - 500 * MIB)
        assert os.environ["GPUBROKER_MEMORY_BYTES"] == str(2 * GIB)
        found = current_lease()
        assert found is view
    assert dict(os.environ) == before
