"""The builder configuration, in which TensorRT and TensorRT-RTX differ most, and the timing cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.trt.backend import Backend, Messages
from engines.trt.build_options import BuildOptions
from engines.trt.parsing import Parsed
from engines.trt.profiles import input_shape
from vgg_deploy.errors import BuildError, UsageError
from vgg_deploy.files import whole_file
from vgg_deploy.network.shapes import Profile


def check_capabilities(backend: Backend, wanted: Sequence[str]) -> None:
    """Raises UsageError unless TensorRT-RTX can build for each of `wanted`, such as "8.9"."""
    known = _capabilities(backend) if wanted else {}
    unknown = [capability for capability in wanted if capability not in known]
    if unknown:
        raise UsageError(
            f"--compute-capability is {unknown[0]!r}; {backend} builds for {', '.join(known)}. Without the option it "
            "builds for 8.0 and later except 9.0 (H100, H200); those need --backend tensorrt"
        )


def configured(
    backend: Backend, parsed: Parsed, options: BuildOptions, profiles: Sequence[Profile], messages: Messages
) -> Any:
    """An `IBuilderConfig` with profiles, limits and targets.

    Raises:
        UsageError: the timing cache cannot be read.
        BuildError: TensorRT refused a profile, a target or the timing cache.
    """
    trt, builder, network = backend.trt, parsed.builder, parsed.network
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the plan reports its layers' types
    # TF32 rounds the factors of FP32 products to eleven bits, and is on by default (10.16, 11.4, RTX 1.7).
    config.clear_flag(trt.BuilderFlag.TF32)
    images = network.get_input(0)
    for wanted in profiles:
        profile = builder.create_optimization_profile()
        shapes = (input_shape(shape) for shape in (wanted.minimum, wanted.optimum, wanted.maximum))
        profile.set_shape(images.name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"{backend} refuses the profile {wanted}: {messages.reason}")
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if backend.is_rtx:
        _target(backend, config, options.compute_capabilities, messages)
    else:
        _share(backend, config, options, messages)
    return config


def save_timing_cache(config: Any, path: Path) -> None:
    """Writes TensorRT's measurements, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    cache = config.get_timing_cache()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(memoryview(cache.serialize()))


def _capabilities(backend: Backend) -> dict[str, Any]:
    """The compute capabilities that TensorRT-RTX knows, such as "12.0", in its own order."""
    trt = backend.trt
    capabilities = {}
    for name, member in trt.ComputeCapability.__members__.items():
        match = re.fullmatch(r"SM(\d+)(\d)", name)
        if match:
            capabilities[f"{match[1]}.{match[2]}"] = member
    return capabilities


def _target(backend: Backend, config: Any, wanted: Sequence[str], messages: Messages) -> None:
    """TensorRT-RTX: sets the GPUs for which it builds."""
    if not wanted:
        return
    known = _capabilities(backend)
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        if not config.set_compute_capability(known[capability], index):
            raise BuildError(f"{backend} refuses compute capability {capability}: {messages.reason}")


def _share(backend: Backend, config: Any, options: BuildOptions, messages: Messages) -> None:
    """TensorRT: sets the other GPUs that may run the plan, and the measurements of earlier builds."""
    trt = backend.trt
    levels = {
        "ampere+": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "same": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }
    if options.hardware_compatibility in levels:
        config.hardware_compatibility_level = levels[options.hardware_compatibility]
    if options.timing_cache is not None:
        path = options.timing_cache
        cache = config.create_timing_cache(_read(path))
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BuildError(
                f"{path} is not a timing cache of {backend} for this GPU: {messages.reason}. Give another file; if it "
                "does not exist, it is created"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(f"cannot read the timing cache {path}: {error.strerror}") from error
