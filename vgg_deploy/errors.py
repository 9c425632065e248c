"""Every error that vgg_deploy raises deliberately.

    VGGDeployError                 exit 1
    |-- UsageError                 exit 2: the request cannot be carried out as given
    |   `-- MissingDependencyError        a package is not installed; names the extra to install
    |-- ImageError                 an image file cannot be read or turned into views
    |-- ManifestError              a manifest is missing, has another version, or does not fit its file
    |-- CheckpointError            weights are damaged, contain code, or do not belong to a VGG network
    |-- ModelFileError             an ONNX file is damaged, unsafe, or does not accept our input images
    |-- BuildError                 an ONNX file cannot become the requested plan
    |   `-- PreflightError                found before the build; lists all the reasons
    |-- PlanError                  a TensorRT plan is damaged, does not match its manifest, or is for another machine
    |-- EngineError                a runtime refused the model or failed while running it
    |   `-- UnsupportedModelError         this runtime cannot compute the model, but another may
    |-- TrainingError              training cannot start or continue
    `-- OutputError                a result cannot be written

A message says what was received, what was expected and what to do. Errors of a vendor's library are translated only
where that library is called.
"""

from collections.abc import Sequence

from vgg_deploy.install import install_command

INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT


class VGGDeployError(Exception):
    """Root of the tree. `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(VGGDeployError):
    """The request cannot be carried out as given."""

    exit_code = 2


class MissingDependencyError(UsageError):
    """A package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: {install_command(extra)}")


class ImageError(VGGDeployError):
    """An image file cannot be read or turned into views."""


class ImageWarning(UserWarning):
    """An image file is read, but its pixels are perhaps not what the file means. The command line shows the first."""


class ManifestError(VGGDeployError):
    """A manifest is missing, has another version, or does not fit its file."""


class CheckpointError(VGGDeployError):
    """Weights are damaged, contain code, or do not belong to a VGG network."""


class ModelFileError(VGGDeployError):
    """An ONNX file is damaged, unsafe, or does not accept our input images."""


class BuildError(VGGDeployError):
    """An ONNX file cannot become the requested plan."""


class PreflightError(BuildError):
    """A build cannot succeed, found before it starts. `findings` has one line per reason, with what to do."""

    def __init__(self, where: str, findings: tuple[str, ...]) -> None:
        super().__init__(f"{where} cannot become a plan: " + "\n".join(findings))
        self.findings = findings


class PlanError(VGGDeployError):
    """A TensorRT plan is damaged, does not match its manifest, or is for another machine."""


class EngineError(VGGDeployError):
    """A runtime refused the model or failed while running it."""


class UnsupportedModelError(EngineError):
    """A runtime cannot compute the model in a file, but another may; `reason` says why."""

    def __init__(self, runtime: str, path: object, reason: str) -> None:
        super().__init__(f"{runtime} refused {path}: {reason}")
        self.reason = reason


class TrainingError(VGGDeployError):
    """Training cannot start or continue."""


class OutputError(VGGDeployError):
    """A result cannot be written."""


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def one_line(text: str) -> str:
    """The text with its lines joined."""
    return " ".join(text.split())


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, such as "1 image" and "2 images"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def either(words: Sequence[str]) -> str:
    """The words as a choice, such as "floor, nearest or up"."""
    return " or ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def exit_code_of(error: BaseException) -> int:
    """What a command exits with after this error. Errors of click have an `exit_code` too."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    code = getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1
