"""Running plans on a GPU and a TensorRT of plain Python: answers, lanes, graphs, contexts, and what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.trt import backend as backends
from engines.trt.backend import Backend
from engines.trt.engine import TrtEngine, best_profile
from engines.trt.lane import SHAPES as KEPT
from engines.trt.loaded import LoadedPlan
from tests.engines.trt.fake_gpu import FakeCuda, FakeTrt, answer
from tests.engines.trt.fake_machine import PROFILES, described, noise
from vgg_deploy.errors import EngineError, PlanError, UsageError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.tensors import Images

BOTH = ("tensorrt", "tensorrt-rtx")


class Bench:
    """A backend on a GPU, both fakes, and engines that are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vgg11.plan"
        self.path.write_bytes(b"a plan")
        self.cuda = FakeCuda()
        self.trt = FakeTrt(self.cuda)
        self.engines: list[TrtEngine] = []

    def open(self, backend: str = "tensorrt") -> TrtEngine:
        with self.cuda.active():
            loaded = LoadedPlan(Backend(backend, self.trt), self.path)
        self.engines.append(TrtEngine(self.path, described(backend), loaded, self.cuda))
        return self.engines[-1]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(backends, "_loggers", {})  # a real backend's logger would not work with the fake
    made = Bench(tmp_path)
    yield made
    made.cuda.broken.clear()
    for engine in made.engines:
        engine.close()


def check(scores: Scores, images: Images) -> None:
    posteriors, score_map = answer(images)
    np.testing.assert_array_equal(scores.probabilities, posteriors)
    np.testing.assert_array_equal(scores.score_map, score_map)
    assert scores.features is None


# ---- answers ----


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("shape", [(4, 64, 64), (2, 45, 33), (1, 128, 100)])
def test_each_run_of_a_shape_gives_its_answer(shape: tuple[int, ...], backend: str, bench: Bench) -> None:
    engine = bench.open(backend)
    for seed in range(4):  # eager, recorded, replayed
        images = noise(*shape, seed=seed)
        check(engine.run(images), images)
    first = engine.run(images)
    copy = first.probabilities.copy()
    engine.run(255 - images)
    engine.close()
    np.testing.assert_array_equal(first.probabilities, copy)  # answers belong to the caller


def test_images_need_not_be_contiguous_and_are_never_written(bench: Bench) -> None:
    engine, images = bench.open(), noise(4, 64, 64)
    images.flags.writeable = False
    for view in (images[:, :, ::-1], images[..., ::-1], images[::2, 3:40], np.asfortranarray(images)):
        check(engine.run(view), np.ascontiguousarray(view))


@pytest.mark.parametrize("backend", BOTH)
def test_threads_get_the_answers_of_their_own_images(backend: str, bench: Bench) -> None:
    engine = bench.open(backend)
    start = threading.Barrier(6)

    def work(first: int) -> None:
        start.wait(10)
        for index in range(12):
            images = noise(1 + index % 2, 32 + 2 * (index % 5), 40, seed=100 * first + index)
            check(engine.run(images), images)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, first) for first in range(6)]:
            future.result(30)
    assert len(bench.cuda.streams) == 1 + 2  # one to measure, two lanes


def test_its_info_describes_it(bench: Bench) -> None:
    info = bench.open("tensorrt-rtx").info
    assert (info.runtime, info.device, info.concurrency) == ("tensorrt-rtx 1.7.1", "cuda:0", 2)
    assert info.precision == "1/1 convolutions INT8, fc8 FP16, as declared"
    assert info.outputs == ("probabilities", "score_map")
    assert str(info.shapes) == "1..2 x 32..128 x 32..128 x 3"  # batches that every profile accepts
    assert info.scales == (32, 64)
    assert info.notices == ()


# ---- profiles ----


@pytest.mark.parametrize(("shape", "profile"), [((4, 64, 64), 0), ((2, 64, 64), 1), ((1, 63, 64), 0), ((1, 65, 64), 1)])
def test_a_shape_runs_in_the_profile_that_was_made_for_it(shape: tuple[int, int, int], profile: int) -> None:
    assert best_profile(PROFILES, shape) == profile


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((3, 64, 70), "vgg-deploy build vgg11.onnx -o vgg11.plan --scales 32,64 --max-aspect 2 --max-batch 3"),
        ((1, 64, 200), "vgg-deploy build vgg11.onnx -o vgg11.plan --scales 32,64 --max-batch 4 --max-aspect 3.13"),
        ((9, 20, 60), "-o vgg11.plan --max-batch 9 --scales 20,32,64 --max-aspect 3"),
    ],
)
def test_a_shape_in_no_profile_is_refused_with_the_profiles_and_the_build_command(
    shape: tuple[int, ...], remedy: str, bench: Bench
) -> None:
    with pytest.raises(UsageError) as caught:
        bench.open().run(noise(*shape))
    size = " x ".join(map(str, shape))
    assert str(caught.value).startswith(
        f"images is {size} x 3 is in no profile of vgg11.plan, which takes Q=32: 1..4 x 32..64 x 32..64 x 3; "
        "Q=64: 1..2 x 64..128 x 64..128 x 3; build a plan that takes it: vgg-deploy build vgg11.onnx"
    )
    assert str(caught.value).endswith(remedy)


def test_an_empty_batch_and_other_types_are_refused(bench: Bench) -> None:
    engine = bench.open()
    with pytest.raises(UsageError, match="images is 0 x 32 x 32 x 3 is in no profile"):
        engine.run(noise(0, 32, 32))
    with pytest.raises(UsageError, match=r"expected uint8 \[n, height, width, 3\]"):
        engine.run(np.zeros((1, 32, 32, 3), np.float32))  # type: ignore[arg-type]


# ---- contexts and graphs ----


def test_a_shape_runs_eagerly_first_then_is_recorded_then_replayed(bench: Bench) -> None:
    engine, counts = bench.open(), []
    for _ in range(4):
        before = len(bench.trt.events), len(bench.cuda.calls("capture")), len(bench.cuda.calls("launch"))
        hold_other_lane(engine, lambda: engine.run(noise(1, 40, 40)))
        after = len(bench.trt.events), len(bench.cuda.calls("capture")), len(bench.cuda.calls("launch"))
        counts.append(tuple(new - old for old, new in zip(before, after, strict=True)))
    assert counts == [(1, 0, 0), (1, 1, 1), (0, 0, 1), (0, 0, 1)]


def hold_other_lane(engine: TrtEngine, work: Callable[[], Any]) -> Any:
    """Runs `work` while all lanes but one are taken, so that it always meets the same one."""
    held = [engine._idle.get() for _ in range(engine.info.concurrency)]
    held.sort(key=id)
    engine._idle.put(held[0])
    try:
        return work()
    finally:
        for lane in held[1:]:
            engine._idle.put(lane)


def test_tensorrt_rtx_records_graphs_itself(bench: Bench) -> None:
    engine = bench.open("tensorrt-rtx")
    for _ in range(6):
        engine.run(noise(1, 40, 40))
    assert bench.cuda.calls("capture", "launch") == []
    (config,) = bench.trt.configs
    assert config.cuda_graph_strategy == bench.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def test_each_shape_has_its_own_context_in_each_lane(bench: Bench) -> None:
    engine = bench.open()
    made = len(bench.trt.contexts)
    shapes = ((1, 32, 32), (2, 32, 32), (1, 32, 40))
    for _ in range(2):
        for shape in shapes:
            hold_other_lane(engine, lambda shape=shape: engine.run(noise(*shape)))  # type: ignore[misc]
    assert len(bench.trt.contexts) - made == len(shapes)


def test_contexts_of_a_lane_share_one_block_of_memory_large_enough_for_any_profile(bench: Bench) -> None:
    bench.open()
    sizes = [size for _, size, purpose in bench.cuda.calls("allocate") if purpose == "the network's scratch memory"]
    assert sizes == [2000, 2000]  # one for each lane


def test_buffers_are_made_once_for_the_largest_batch(bench: Bench) -> None:
    engine = bench.open()
    made = len(bench.cuda.calls("allocate", "pin", "stream", "event"))
    for shape in ((1, 32, 32), (4, 64, 64), (2, 128, 128)):
        images = noise(*shape)
        check(engine.run(images), images)
    assert len(bench.cuda.calls("allocate", "pin", "stream", "event")) == made
    assert ("allocate", 2 * 128 * 128 * 3, "the largest images") in bench.cuda.log
    assert ("allocate", 4 * 2 * 5 * 4 * 4, "the largest score_map") in bench.cuda.log


def test_only_the_latest_shapes_are_kept_and_a_graph_goes_before_its_context(bench: Bench) -> None:
    engine = bench.open()
    shapes = [(1, 32, 32 + index) for index in range(KEPT + 1)]

    def run(shape: tuple[int, ...]) -> None:
        images = noise(*shape)
        check(hold_other_lane(engine, lambda: engine.run(images)), images)

    first = len(bench.trt.contexts)
    for shape in shapes[:2]:
        run(shape)
        run(shape)  # recorded
    run(shapes[0])  # the second is the oldest now
    freed = len(bench.cuda.calls("free"))
    bench.trt.events.clear()
    for shape in shapes[2:]:
        run(shape)
    assert bench.cuda.calls("free")[freed:] == [("free", "CudaGraph")]
    assert [event for event in bench.trt.events if "destroyed" in event] == [f"context {first + 1} destroyed"]
    run(shapes[1])  # it comes again, with a new context
    assert f"context {first} destroyed" in bench.trt.events


def test_resources_are_freed_in_the_order_that_tensorrt_needs(bench: Bench) -> None:
    engine = bench.open()
    for _ in range(2):
        hold_other_lane(engine, lambda: engine.run(noise(1, 40, 40)))
    begin = len(bench.cuda.log)
    engine.close()
    order = [what for name, what in bench.cuda.log[begin:] if name in ("free", "destroyed")]
    used, unused = ["CudaGraph", "context"], ["Memory", *["Memory", "Pinned"] * 3, "Event", "Stream"]
    assert order in ([*used, *unused, *unused, "engine"], [*unused, *used, *unused, "engine"])


def test_a_failed_recording_is_not_tried_again_and_the_request_still_succeeds(bench: Bench) -> None:
    engine = bench.open()
    bench.cuda.broken.add("capture")
    for seed in range(5):
        images = noise(1, 40, 40, seed=seed)
        check(hold_other_lane(engine, lambda images=images: engine.run(images)), images)  # type: ignore[misc]
    assert len(bench.cuda.calls("capture")) == 1
    assert bench.cuda.calls("launch") == []


@pytest.mark.parametrize("backend", BOTH)
def test_an_api_without_graphs_is_a_notice_for_tensorrt(backend: str, bench: Bench) -> None:
    bench.cuda.captures = False
    engine = bench.open(backend)
    for _ in range(4):
        engine.run(noise(1, 40, 40))
    assert bench.cuda.calls("capture") == []
    expected = "PyCUDA has no CUDA graphs, so kernels are launched one by one; --cuda-api cuda-python has them"
    assert engine.info.notices == ((expected,) if backend == "tensorrt" else ())


# ---- lanes ----


def test_two_requests_are_under_way_at_once_each_on_its_stream(bench: Bench) -> None:
    engine = bench.open()
    both = threading.Barrier(2)
    bench.cuda.before_wait = lambda: both.wait(10) and None  # neither ends before both have filled their streams
    with ThreadPoolExecutor(2) as pool:
        batches = [noise(1, 40, 40, seed=seed) for seed in range(2)]
        for scores, images in zip(pool.map(engine.run, batches), batches, strict=True):
            check(scores, images)
    streams = [call[1] for call in bench.cuda.calls("upload")]
    assert len(set(streams)) == 2


def test_a_third_request_waits_for_a_lane(bench: Bench) -> None:
    engine = bench.open()
    inside, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        inside.release()
        assert go_on.wait(10)

    bench.cuda.before_wait = hold
    with ThreadPoolExecutor(3) as pool:
        batches = [noise(1, 40, 40, seed=seed) for seed in range(3)]
        futures = [pool.submit(engine.run, images) for images in batches]
        for _ in range(2):
            assert inside.acquire(timeout=10)
        assert not inside.acquire(timeout=0.05)
        go_on.set()
        for future, images in zip(futures, batches, strict=True):
            check(future.result(10), images)


def test_without_memory_for_two_lanes_one_runs_and_says_so(bench: Bench) -> None:
    bench.cuda._memory = 150_000
    engine = bench.open()
    assert engine.info.concurrency == 1
    (notice,) = engine.info.notices
    assert notice.startswith(
        "requests run one after the other, because there is no memory for two: out of memory on cuda:0"
    )
    with ThreadPoolExecutor(3) as pool:
        batches = [noise(1, 40, 40, seed=seed) for seed in range(6)]
        for scores, images in zip(pool.map(engine.run, batches), batches, strict=True):
            check(scores, images)


def test_out_of_memory_says_for_what_how_much_and_what_to_lower(bench: Bench) -> None:
    bench.cuda._memory = 90_000
    expected = (
        r"out of memory on cuda:0: could not allocate 0\.1 MiB for the largest images, 0\.1 MiB are free\. "
        r"Build the plan with a smaller "
        r"--max-batch, smaller --scales or a smaller --max-aspect, or stop other programs on the GPU$"
    )
    with pytest.raises(EngineError, match=expected):
        bench.open()
    assert bench.cuda.live == set()


def test_if_memory_for_a_context_is_lacking_the_kept_ones_are_dropped_first(bench: Bench) -> None:
    engine = bench.open()

    def run(shape: tuple[int, ...]) -> None:
        images = noise(*shape)
        check(hold_other_lane(engine, lambda: engine.run(images)), images)

    for width in (32, 33, 34):
        run((1, 32, width))
    bench.trt.contexts_at_most = 3
    run((1, 32, 35))
    assert len([number for number in bench.trt.contexts if number is not None]) == 1
    bench.trt.contexts_at_most = 0
    with pytest.raises(EngineError, match=r"failed on 1 x 32 x 36 x 3: .* cannot make an execution context"):
        run((1, 32, 36))


# ---- failures ----


@pytest.mark.parametrize("call", ["upload", "download", "record", "wait"])
def test_a_failure_of_cuda_names_the_call_and_the_next_request_starts_anew(call: str, bench: Bench) -> None:
    engine, images = bench.open(), noise(1, 40, 40)
    for _ in range(6):
        engine.run(images)
    made = len(bench.trt.contexts)
    bench.cuda.broken.add(call)
    expected = rf"vgg11\.plan failed on 1 x 40 x 40 x 3: {call} failed: an illegal memory access was encountered"
    with pytest.raises(EngineError, match=expected):
        hold_other_lane(engine, lambda: engine.run(images))
    bench.cuda.broken.clear()
    check(hold_other_lane(engine, lambda: engine.run(images)), images)
    assert len(bench.trt.contexts) == made + 1  # that shape's context of that lane


def test_a_replay_that_fails_drops_its_graph(bench: Bench) -> None:
    engine, images = bench.open(), noise(1, 40, 40)
    for _ in range(3):
        hold_other_lane(engine, lambda: engine.run(images))
    bench.cuda.broken.add("launch")
    with pytest.raises(EngineError, match="launch failed"):
        hold_other_lane(engine, lambda: engine.run(images))
    assert bench.cuda.calls("free")[-1] == ("free", "CudaGraph")
    bench.cuda.broken.clear()
    check(engine.run(images), images)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("create_execution_context", "cannot make an execution context of .*vgg11.plan: Error Code 1: it broke"),
        ("set_optimization_profile_async", "refuses images of 1 x 40 x 40 x 3 in profile 0: Error Code 1: it broke"),
        ("set_input_shape", "refuses images of 1 x 40 x 40 x 3 in profile 0: Error Code 1: it broke"),
        ("set_tensor_address", "refuses the memory of images, probabilities, score_map: Error Code 1: it broke"),
        ("execute_async_v3", "failed to run: Error Code 1: it broke"),
    ],
)
@pytest.mark.parametrize("backend", BOTH)
def test_a_failure_of_tensorrt_is_an_error_with_its_reason(call: str, reason: str, backend: str, bench: Bench) -> None:
    engine, images = bench.open(backend), noise(1, 40, 40)
    bench.trt.broken.add(call)
    with pytest.raises(EngineError, match=f"vgg11.plan failed on 1 x 40 x 40 x 3: {backend} 1.7.1 {reason}") as caught:
        engine.run(images)
    assert "\n" not in str(caught.value)
    bench.trt.broken.clear()
    check(engine.run(images), images)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        ("deserialize_cuda_engine", PlanError, "cannot load .*vgg11.plan: Error Code 1: it broke.* build it again"),
        ("create_runtime_config", EngineError, "returned no runtime configuration"),
        ("create_runtime_cache", EngineError, "returned no runtime cache"),
        ("set_runtime_cache", EngineError, "refuses its own runtime cache"),
        ("create_execution_context", EngineError, "cannot make an execution context"),
    ],
)
def test_a_plan_that_cannot_be_opened_says_why(call: str, kind: type[Exception], reason: str, bench: Bench) -> None:
    bench.trt.broken.add(call)
    with pytest.raises(kind, match=reason):
        bench.open("tensorrt-rtx")
    assert bench.cuda.live == set()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("images", ("INPUT", "FLOAT", (-1, -1, -1, 3))),
        ("another", ("INPUT", "UINT8", (-1, -1, -1, 3))),
        ("probabilities", ("OUTPUT", "HALF", (-1, 5))),
        ("probabilities", ("OUTPUT", "FLOAT", (-1, 5, 1))),
    ],
)
def test_a_plan_with_other_tensors_is_refused_and_they_are_named(name: str, tensor: Any, bench: Bench) -> None:
    bench.trt.tensors[name] = tensor
    with pytest.raises(
        PlanError, match=r"has the tensors .*; expected one input, uint8 \[n, h, w, 3\], and float32 outputs"
    ):
        bench.open()


# ---- the end ----


@pytest.mark.parametrize("backend", BOTH)
def test_closing_frees_everything_and_may_be_repeated(backend: str, bench: Bench) -> None:
    with bench.open(backend) as engine:
        for shape in ((1, 40, 40), (1, 70, 70)):
            for _ in range(6):
                engine.run(noise(*shape))
        assert len([number for number in bench.trt.contexts if number is not None]) == 4
    assert bench.cuda.live == set()
    assert set(bench.trt.contexts) == {None}
    assert bench.trt.events[-1] == "engine destroyed"
    engine.close()
    for _ in range(3):
        with pytest.raises(EngineError, match=r"vgg11\.plan was closed; open it again"):
            engine.run(noise(1, 40, 40))


def test_closing_waits_for_requests_under_way_and_refuses_waiting_ones(bench: Bench) -> None:
    engine, images = bench.open(), noise(1, 40, 40)
    inside, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        inside.release()
        assert go_on.wait(10)

    bench.cuda.before_wait = hold
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(engine.run, images) for _ in range(2)]
        for _ in running:
            assert inside.acquire(timeout=10)
        closing = pool.submit(engine.close)
        while not engine._closed:
            pass
        late = pool.submit(engine.run, images)
        assert not closing.done()
        go_on.set()
        for future in running:
            check(future.result(10), images)
        closing.result(10)
        error = late.exception(10)
    # The late call may have got a lane before the close.
    assert error is None or str(error).endswith("was closed; open it again")
    assert bench.cuda.live == set()


def test_an_engine_closes_although_its_gpu_has_failed_for_good(bench: Bench) -> None:
    engine = bench.open()
    engine.run(noise(1, 40, 40))
    bench.cuda.broken.update({"free", "wait", "record"})
    engine.close()
    assert bench.trt.events[-1] == "engine destroyed"
    engine.close()
    bench.cuda.broken.clear()


# ---- TensorRT-RTX's compiled kernels ----


def test_compiled_kernels_are_kept_beside_the_plan_and_used_again(bench: Bench) -> None:
    cache = bench.path.with_name("vgg11.plan.cache")
    with bench.open("tensorrt-rtx") as engine:
        assert not cache.exists()
        engine.run(noise(1, 40, 40))
    stored = cache.read_bytes()
    assert stored == bench.trt.caches[0].serialize()
    with bench.open("tensorrt-rtx") as engine:
        assert engine.info.notices == ()
        assert bench.trt.caches[1].lines[: stored.count(b"\n") + 1] == stored.split(b"\n")
    assert sorted(path.name for path in bench.path.parent.iterdir()) == ["vgg11.plan", "vgg11.plan.cache"]


def test_an_unchanged_cache_is_not_written_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = bench.path.with_name("vgg11.plan.cache")
    cache.write_bytes(b"kernels")
    monkeypatch.setattr("tests.engines.trt.fake_gpu.FakeRuntimeCache.serialize", lambda self: b"kernels")
    before = cache.stat()
    bench.open("tensorrt-rtx").close()
    assert cache.stat().st_mtime_ns == before.st_mtime_ns
    assert cache.stat().st_ino == before.st_ino


@pytest.mark.parametrize("stored", [b"rubbish", b""])
def test_an_unusable_cache_is_a_notice_and_is_replaced(stored: bytes, bench: Bench) -> None:
    cache = bench.path.with_name("vgg11.plan.cache")
    cache.write_bytes(stored)
    with bench.open("tensorrt-rtx") as engine:
        (notice,) = engine.info.notices
        assert notice.startswith(f"{cache} is not used: it is ")
        assert notice.endswith("It is replaced when the engine is closed")
        images = noise(1, 40, 40)
        check(engine.run(images), images)
    assert cache.read_bytes().startswith(b"kernels")


def test_a_cache_that_cannot_be_read_or_written_is_not_an_error(bench: Bench) -> None:
    cache = bench.path.with_name("vgg11.plan.cache")
    cache.mkdir()  # even root cannot write over a folder
    with bench.open("tensorrt-rtx") as engine:
        (notice,) = engine.info.notices
        assert "cannot be read (Is a directory)" in notice
    assert cache.is_dir()
    assert len(list(bench.path.parent.iterdir())) == 2


def test_tensorrt_and_an_empty_cache_write_no_file(bench: Bench) -> None:
    with bench.open("tensorrt") as engine:
        engine.run(noise(1, 40, 40))
    with bench.open("tensorrt-rtx"):
        bench.trt.broken.add("serialize")
    assert list(bench.path.parent.iterdir()) == [bench.path]
