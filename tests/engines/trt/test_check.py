"""Checks of a plan before it is loaded: every reason why it cannot run, and the command that helps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.trt import check
from engines.trt import engine as run
from engines.trt.capability import capability_problem
from engines.trt.check import PlanChecks
from engines.trt.cuda import Gpu
from engines.trt.engine import open_plan
from tests.engines.trt.fake_gpu import SHAPES, FakeCuda, answer
from tests.engines.trt.fake_machine import COMMAND, RTX, Machine, described, noise
from vgg_deploy.artifacts.plan import sidecar_of
from vgg_deploy.errors import EngineError, MissingDependencyError, PlanError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.spec import NetworkSpec

NAMES = ["manifest", "contents", "GPU", "backend", "version", "compute capability", "header"]


# ---- which GPUs ----


@pytest.mark.parametrize(
    ("targets", "capability"),
    [((), (8, 0)), ((), (12, 1)), (("7.5",), (7, 5)), (("8.6", "12.0"), (12, 0)), (("12.0",), (12, 1))],
)
def test_rtx_runs_on_its_gpus_unless_it_is_built_for_others(
    targets: tuple[str, ...], capability: tuple[int, int]
) -> None:
    assert capability_problem(described("tensorrt-rtx", compute_capabilities=targets), Gpu("G", capability)) is None


@pytest.mark.parametrize(
    ("targets", "capability", "reason", "remedy"),
    [
        ((), (7, 5), "was built for compute capability 8.0 and later, except 9.0", "--compute-capability 7.5"),
        (("8.9",), (8, 6), "was built for compute capability 8.9;", "--compute-capability 8.9,8.6"),
        (("7.5", "12.0"), (8, 9), "was built for compute capability 7.5, 12.0;", "--compute-capability 7.5,12.0,8.9"),
    ],
)
def test_rtx_on_a_gpu_that_it_was_not_built_for_names_the_target_to_add(
    targets: tuple[str, ...], capability: tuple[int, int], reason: str, remedy: str
) -> None:
    plan = described("tensorrt-rtx", compute_capabilities=targets, command=RTX)
    problem = capability_problem(plan, Gpu("NVIDIA T4", capability))
    assert reason in problem
    assert problem.endswith(f". Build it for both: {RTX} {remedy}")
    assert f"this GPU is NVIDIA T4 (compute capability {capability[0]}.{capability[1]})" in problem


@pytest.mark.parametrize(("targets", "capability"), [((), (9, 0)), (("9.0",), (9, 0)), (("8.9",), (7, 0))])
def test_rtx_never_runs_on_these_gpus_and_names_the_other_backend(
    targets: tuple[str, ...], capability: tuple[int, int]
) -> None:
    plan = described("tensorrt-rtx", compute_capabilities=targets, command=f"{RTX} --compute-capability 8.9")
    problem = capability_problem(plan, Gpu("NVIDIA H200", capability))
    assert (
        "runs on compute capability 8.0, 8.6, 8.9 and 12.x, and 7.5 if built for it; this GPU is NVIDIA H200" in problem
    )
    assert problem.endswith(f". Build it for tensorrt on this machine: {COMMAND} --backend tensorrt")


@pytest.mark.parametrize(
    ("built", "compatibility", "capability"),
    [
        (("8.9",), "none", (8, 9)),
        (("8.9",), "same", (8, 9)),
        (("8.6",), "ampere+", (8, 0)),
        (("8.6",), "ampere+", (12, 0)),
        ((), "none", (7, 5)),  # unknown here; TensorRT will report it
    ],
)
def test_a_tensorrt_plan_runs_where_it_was_built_and_where_its_compatibility_allows(
    built: tuple[str, ...], compatibility: str, capability: tuple[int, int]
) -> None:
    plan = described("tensorrt", compute_capabilities=built, hardware_compatibility=compatibility)
    assert capability_problem(plan, Gpu("G", capability)) is None


@pytest.mark.parametrize(
    ("built", "compatibility", "capability", "ending"),
    [
        (("8.9",), "none", (7, 5), f". Build it on this machine: {COMMAND}"),
        (("8.9",), "same", (8, 6), f", or build one plan for both: {COMMAND} --hardware-compatibility ampere+"),
        (("8.9",), "ampere+", (7, 5), f"this GPU is G (compute capability 7.5). Build it on this machine: {COMMAND}"),
    ],
)
def test_a_tensorrt_plan_on_another_gpu_names_the_build_command(
    built: tuple[str, ...], compatibility: str, capability: tuple[int, int], ending: str
) -> None:
    plan = described("tensorrt", compute_capabilities=built, hardware_compatibility=compatibility)
    problem = capability_problem(plan, Gpu("G", capability))
    assert problem.endswith(ending)


# ---- a plan on a machine ----


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_plan_that_can_run_passes_every_check(machine: Machine) -> None:
    machine.describe()
    checks = machine.checks(device="cuda:3", cuda_api="pycuda")
    assert list(checks) == NAMES
    assert [each.passed for each in checks.values()] == [True] * 7
    assert checks["manifest"].text == "vgg11.plan.json: from vgg11.onnx, 5 classes, 1/1 convolutions INT8, fc8 FP16"
    assert checks["GPU"].text == "cuda:0: Fake RTX (compute capability 8.9)"
    assert checks["backend"].text == "tensorrt-rtx 1.7.1"
    assert machine.asked == [("pycuda", 3, "rtx")]
    assert machine.trt.headers == [(b"a plan" * 20)[:64]]


def test_tensorrts_header_is_not_checked(machine: Machine) -> None:
    machine.installed = ("tensorrt",)
    machine.describe("tensorrt")
    checks = machine.checks()
    assert all(each.passed for each in checks.values())
    assert checks["header"].text == "tensorrt checks it when it loads the plan"
    assert machine.trt.headers == []
    assert machine.asked == [("cuda-python", 0, "gpu")]


@pytest.mark.parametrize(
    ("damage", "kind", "code", "reason"),
    [
        (lambda path: path.unlink(), UsageError, 2, "no such plan"),
        (lambda path: path.write_bytes(b""), PlanError, 1, r"is empty \(0 bytes\); build it again"),
        (lambda path: path.write_bytes(b"a pl"), UsageError, 2, r"--trust: .*its SHA-256 differs\): .* build it again"),
        (lambda path: sidecar_of(path).unlink(), UsageError, 2, r"no usable manifest .* does not exist\).* --trust"),
        (lambda path: sidecar_of(path).write_text("{"), UsageError, 2, "is not JSON .* --trust"),
    ],
)
def test_a_damaged_plan_or_manifest_is_one_clear_line(
    damage: Callable[[Path], object], kind: type[Exception], code: int, reason: str, machine: Machine
) -> None:
    machine.describe()
    damage(machine.path)
    with pytest.raises(kind, match=reason) as caught:
        PlanChecks(machine.path, EngineOptions()).require()
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)


def test_a_plan_that_cannot_be_read_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.describe()

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(check, "mismatch", refuse)
    problem = machine.problem()
    assert isinstance(problem, PlanError)
    assert str(problem) == f"{machine.path} cannot be read: Permission denied"


def test_without_a_gpu_the_onnx_file_beside_it_is_named_with_its_command(machine: Machine) -> None:
    machine.describe()
    machine.capability = None
    onnx_file = machine.path.with_name("vgg11.onnx")
    onnx_file.touch()
    problem = machine.problem()
    assert isinstance(problem, PlanError)
    assert str(problem).startswith(f"{machine.path} needs an NVIDIA GPU, and CUDA shows none here")
    assert str(problem).endswith(f": run the ONNX file beside it: vgg-deploy infer IMAGES --engine {onnx_file}")
    onnx_file.unlink()
    elsewhere = machine.path.with_name("elsewhere.onnx")
    elsewhere.touch()
    machine.describe(command=f"vgg-deploy build {elsewhere} -o vgg11.plan")
    assert str(machine.problem()).endswith(f" it was built: vgg-deploy infer IMAGES --engine {elsewhere}")
    machine.describe()
    expected = "run the ONNX file from which it was built: vgg-deploy infer IMAGES --engine vgg11.onnx"
    assert str(machine.problem()).endswith(expected)


def test_a_sidecar_that_names_no_onnx_file_leaves_out_the_command(machine: Machine) -> None:
    machine.describe(onnx=Source("", "0" * 64))
    machine.capability = None
    assert str(machine.problem()).endswith(": run the ONNX file from which it was built")


def test_without_a_gpu_the_other_checks_are_made(machine: Machine) -> None:
    machine.describe(version="1.6.0")
    machine.capability = None
    checks = machine.checks()
    assert [each.passed for each in checks.values()] == [True, True, False, True, False, None, None]
    assert checks["header"].text == "cannot be checked without a GPU"
    assert machine.asked == []  # cuda-python need not be installed


def test_cuda_that_cannot_be_opened_says_why(machine: Machine) -> None:
    machine.describe()
    machine.cuda = MissingDependencyError("cuda-python", "rtx", "running a plan")
    assert "running a plan needs cuda-python" in str(machine.problem())


def test_a_backend_that_is_not_installed_names_its_extra(machine: Machine) -> None:
    machine.installed = ()
    machine.describe()
    problem = machine.problem()
    assert isinstance(problem, MissingDependencyError)
    assert "pip install '.[" in str(problem)


def test_another_version_is_refused_with_both_remedies(machine: Machine) -> None:
    machine.describe(version="1.6.0.24")
    assert str(machine.problem()) == (
        "vgg11.plan was built by tensorrt-rtx 1.6.0.24, but 1.7.1 is installed. A plan runs only in its own version: "
        f"pip install tensorrt-rtx==1.6.0.24, or build it again: {RTX}"
    )


def test_another_gpu_is_refused_with_the_command(machine: Machine) -> None:
    machine.describe(compute_capabilities=())
    assert isinstance(machine.cuda, FakeCuda)
    machine.cuda.gpu = Gpu("NVIDIA H200", (9, 0))
    problem = machine.problem()
    assert isinstance(problem, PlanError)
    assert str(problem).endswith(f"{COMMAND} --backend tensorrt")


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (32, f"it is damaged, or not a tensorrt-rtx plan; build it again: {RTX}"),
        (1, f"another version built it; build it again: {RTX}"),
        (
            2,
            "it was not built for Fake RTX (compute capability 8.9); build it for this GPU: "
            f"{RTX} --compute-capability 8.9",
        ),
        (4, "the NVIDIA driver is too old for it; install a newer one"),
        (8, "it was built with a newer CUDA than the installed one"),
        (16, f"the GPU has too little memory; lower --max-batch or --scales and build it again: {RTX}"),
        (64, "CUDA does not work here; nvidia-smi shows whether the driver answers"),
        (0, "TensorRT gives no reason"),
    ],
)
def test_each_of_rtx_s_diagnostics_has_a_message(bits: int, reason: str, machine: Machine) -> None:
    machine.describe()
    machine.trt.validity = (machine.trt.EngineValidity.INVALID, bits)
    problem = machine.problem()
    assert isinstance(problem, PlanError)
    assert str(problem).startswith(f"tensorrt-rtx 1.7.1 cannot run {machine.path}: ")
    assert reason in str(problem)


def test_a_plan_that_may_be_slow_here_runs_with_a_notice(machine: Machine) -> None:
    machine.describe()
    machine.trt.validity = (machine.trt.EngineValidity.SUBOPTIMAL, 0)
    with open_plan(machine.path, EngineOptions()) as engine:
        assert engine.info.notices == (
            "tensorrt-rtx 1.7.1 reports that vgg11.plan may run slower than possible on this GPU",
        )


def test_another_runtime_than_the_plans_is_refused(machine: Machine) -> None:
    machine.describe()
    expected = f"{machine.path} is a tensorrt-rtx plan, and only tensorrt-rtx runs it; leave --runtime out"
    assert str(machine.problem(runtime="tensorrt")) == expected
    assert all(each.passed for each in machine.checks(runtime="tensorrt-rtx").values())


# ---- opening ----


def test_a_plan_opens_with_the_facts_of_its_manifest(machine: Machine) -> None:
    plan = machine.describe()
    with open_plan(machine.path, EngineOptions()) as engine:
        info, images = engine.info, noise(2, 40, 40)
        assert (info.manifest.classes, info.scales, info.outputs) == (
            plan.manifest.classes,
            (32, 64),
            ("probabilities", "score_map"),
        )
        assert (engine.run(images).probabilities == answer(images)[0]).all()
        assert info.notices == ()


def test_a_plan_that_was_renamed_is_called_by_its_new_name(machine: Machine) -> None:
    machine.describe()
    renamed = machine.path.rename(machine.path.with_name("new.engine"))
    sidecar_of(machine.path).rename(sidecar_of(renamed))
    with (
        open_plan(renamed, EngineOptions()) as engine,
        pytest.raises(UsageError, match=r"is in no profile of new\.engine"),
    ):
        engine.run(noise(9, 32, 32))


def test_a_plan_that_is_replaced_while_it_is_opened_is_not_loaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.describe()
    required = PlanChecks.require

    def replace(self: PlanChecks) -> None:
        required(self)
        machine.path.write_bytes(b"another plan")

    monkeypatch.setattr(PlanChecks, "require", replace)
    with pytest.raises(PlanError, match=r"vgg11\.plan was replaced while it was being opened"):
        open_plan(machine.path, EngineOptions())


@pytest.mark.parametrize("command", ["vgg-deploy build 'x", "vgg-deploy build a.onnx; rm -r b"])
def test_a_manifest_whose_command_is_not_a_build_is_refused(command: str, machine: Machine) -> None:
    machine.describe()
    sidecar = sidecar_of(machine.path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "command": command}))
    assert "expected one vgg-deploy build command" in str(machine.problem())


def test_a_manifest_that_was_edited_is_refused_by_its_seal_unless_it_is_trusted(machine: Machine) -> None:
    machine.describe()
    sidecar = sidecar_of(machine.path)
    data = json.loads(sidecar.read_text())
    data["manifest"]["mirror"] = not data["manifest"]["mirror"]
    sidecar.write_text(json.dumps(data))
    assert f"{sidecar} was edited after it was written" in str(machine.problem())
    assert machine.checks(trust=True)["manifest"].passed
    del data["seal"]  # as older versions wrote it
    sidecar.write_text(json.dumps(data))
    assert machine.checks()["manifest"].passed


def test_a_manifest_whose_layers_were_edited_is_refused(
    machine: Machine, narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]
) -> None:
    manifest = manifest_for(narrow_spec("A"), shapes=described("tensorrt-rtx").manifest.shapes)
    machine.describe(manifest=manifest, layers={"conv1_1": "int8"})
    assert "contradicts itself: conv1_1 is int8 instead of float32" in str(machine.problem())


def test_labels_replace_the_class_names_and_if_they_do_not_match_nothing_stays_open(machine: Machine) -> None:
    machine.describe()
    with open_plan(machine.path, EngineOptions(labels="a\nb\nc\nd\ne\n")) as engine:
        assert [name.label for name in engine.info.manifest.classes] == ["a", "b", "c", "d", "e"]
    with pytest.raises(UsageError, match="the labels file has 2 labels; the network has 5 classes"):
        open_plan(machine.path, EngineOptions(labels="a\nb\n"))
    assert isinstance(machine.cuda, FakeCuda)
    assert machine.cuda.live == set()


def test_an_edited_manifest_whose_hash_still_matches_is_refused(machine: Machine) -> None:
    wide = Profile((32,), (1, 32, 32), (2, 40, 48), (64, 512, 512))
    machine.describe(profiles=(wide,))
    with pytest.raises(
        PlanError, match=r"vgg11\.plan\.json was edited: its profiles are not those of .*\. Build the plan again"
    ):
        open_plan(machine.path, EngineOptions())
    fewer = described("tensorrt-rtx").manifest
    machine.describe(manifest=fewer.with_(classes=fewer.classes[:3]))
    with pytest.raises(PlanError, match=r"names 3 classes, but .*vgg11\.plan has 5. Build the plan again"):
        open_plan(machine.path, EngineOptions())


# ---- trust ----

LABELS = "a\nb\nc\nd\ne\n"


@pytest.mark.parametrize("sidecar", [None, '{"another": "tool"}'])
def test_a_trusted_plan_without_manifest_opens_with_its_own_profiles(sidecar: str | None, machine: Machine) -> None:
    if sidecar is not None:
        sidecar_of(machine.path).write_text(sidecar)
    with open_plan(machine.path, EngineOptions(trust=True, labels=LABELS)) as engine:
        info, images = engine.info, noise(2, 70, 70)
        assert [name.label for name in info.manifest.classes] == ["a", "b", "c", "d", "e"]
        assert info.manifest.spec is None
        assert (info.scales, info.outputs) == ((), ("probabilities", "score_map"))
        assert [(p.minimum, p.maximum) for p in info.plan.profiles] == [(ends[0], ends[2]) for ends in SHAPES]  # type: ignore[union-attr]
        assert info.notices[0].startswith("trusted without a manifest (")
        assert (engine.run(images).probabilities == answer(images)[0]).all()
        with pytest.raises(
            UsageError, match=r"is in no profile of vgg11\.plan, which takes .*; build a plan that takes it"
        ):
            engine.run(noise(1, 20, 20))


def test_trust_without_labels_asks_for_them(machine: Machine) -> None:
    expected = r"has no usable manifest \(.* does not exist\), so its classes have no names: give --labels FILE"
    with pytest.raises(UsageError, match=expected):
        open_plan(machine.path, EngineOptions(trust=True))


def test_trust_without_manifest_and_two_backends_asks_which(machine: Machine) -> None:
    machine.installed = ("tensorrt", "tensorrt-rtx")
    with pytest.raises(UsageError, match="its backend is unknown: give --runtime tensorrt or --runtime tensorrt-rtx"):
        open_plan(machine.path, EngineOptions(trust=True, labels=LABELS))
    with open_plan(machine.path, EngineOptions(trust=True, labels=LABELS, runtime="tensorrt")) as engine:
        assert engine.info.runtime == "tensorrt 1.7.1"


def test_a_changed_plan_that_is_trusted_uses_its_own_profiles(machine: Machine) -> None:
    wide = Profile((32,), (1, 32, 32), (2, 40, 48), (64, 512, 512))
    plan = machine.describe(profiles=(wide,))
    machine.path.write_bytes(b"another plan")
    with open_plan(machine.path, EngineOptions(trust=True)) as engine:
        assert engine.info.manifest.classes == plan.manifest.classes
        assert len(engine.info.plan.profiles) == 2  # type: ignore[union-attr]
        (notice,) = engine.info.notices
        assert notice.startswith(
            f"trusted although it does not match its manifest: {machine.path} is not the file that vgg11.plan.json"
        )


def test_a_damaged_plan_that_is_trusted_fails_with_tensorrts_reason(machine: Machine) -> None:
    machine.describe()
    machine.path.write_bytes(b"rubbish")
    machine.trt.broken.add("deserialize_cuda_engine")
    machine.trt.log_line = "Serialization assertion failed"
    with pytest.raises(
        PlanError, match=r"tensorrt-rtx 1\.7\.1 cannot load .*vgg11\.plan: Serialization assertion failed\. "
    ):
        open_plan(machine.path, EngineOptions(trust=True))


def test_an_engine_that_cannot_be_made_leaves_nothing_behind(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.describe()
    closed = []
    monkeypatch.setattr(run.LoadedPlan, "close", lambda self: closed.append(self))
    machine.trt.broken.add("set_tensor_address")
    open_plan(machine.path, EngineOptions()).close()  # contexts are made by the first requests
    machine.trt.broken.add("create_execution_context")
    with pytest.raises(EngineError, match="cannot make an execution context"):
        open_plan(machine.path, EngineOptions())
    assert len(closed) == 2
