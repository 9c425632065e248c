"""Every error that vgg_deploy raises on purpose.

    VGGDeployError                 exit 1
    |-- UsageError                 exit 2: the request itself cannot be carried out as it was put
    |   `-- MissingDependencyError        a package is needed that is not installed; names the extra
    |-- ImageError                 one image file cannot be read or made into views
    |-- ManifestError              a manifest is missing, of another version, or does not fit its artifact
    |-- CheckpointError            weights that are not a VGG's, are damaged, or hold code
    |-- ModelFileError             an ONNX file that is damaged, unsafe, or not one that we can feed
    |-- BuildError                 an ONNX file that cannot become the plan that was asked for
    |   `-- PreflightError                it was found out before the build; all that stands against it
    |-- PlanError                  a TensorRT plan that is damaged, not what its manifest says, or not for this machine
    |-- EngineError                a runtime refused the model or failed while it ran
    |   `-- UnsupportedModelError         the model has something that this runtime cannot compute; another may
    |-- TrainingError              training cannot start or go on
    `-- OutputError                a result could not be written

A message says what was received, what was expected and what to do. Errors of vendors' libraries are
translated where that library is called, nowhere else.
"""

from vgg_deploy.install import install_command


class VGGDeployError(Exception):
    """Root of the tree. `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(VGGDeployError):
    """The request cannot be carried out as it was put."""

    exit_code = 2


class MissingDependencyError(UsageError):
    """A package is needed that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: {install_command(extra)}")


class ImageError(VGGDeployError):
    """One image file cannot be read or made into views."""


class ManifestError(VGGDeployError):
    """A manifest is missing, of another version, or does not fit its artifact."""


class CheckpointError(VGGDeployError):
    """Weights that are not a VGG's, are damaged, or hold code."""


class ModelFileError(VGGDeployError):
    """An ONNX file that is damaged, unsafe, or not one that we can feed."""


class BuildError(VGGDeployError):
    """An ONNX file that cannot become the plan that was asked for."""


class PreflightError(BuildError):
    """What stands against a build, found before it: `findings`, a line each, with what to do."""

    def __init__(self, where: str, findings: tuple[str, ...]) -> None:
        super().__init__(f"{where} cannot become a plan: " + "\n".join(findings))
        self.findings = findings


class PlanError(VGGDeployError):
    """A TensorRT plan that is damaged, not what its manifest says, or not for this machine."""


class EngineError(VGGDeployError):
    """A runtime refused the model or failed while it ran."""


class UnsupportedModelError(EngineError):
    """The model in a file has something that a runtime cannot compute, and another may: `reason`, in words."""

    def __init__(self, runtime: str, path: object, reason: str) -> None:
        super().__init__(f"{runtime} refused {path}: {reason}")
        self.reason = reason


class TrainingError(VGGDeployError):
    """Training cannot start or go on."""


class OutputError(VGGDeployError):
    """A result could not be written."""


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
