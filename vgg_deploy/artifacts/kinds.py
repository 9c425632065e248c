"""What a file is, by the ending of its name: a checkpoint, a TensorRT plan, or an ONNX file."""

from __future__ import annotations

from pathlib import Path

from vgg_deploy.errors import UsageError

CHECKPOINT, PLAN, ONNX = "a checkpoint", "a TensorRT plan", "an ONNX file"

# Endings of checkpoints. torch.save writes all but the first: .bin is Hugging Face's ending, .tar the ending of
# torchvision's training scripts (model.pth.tar), and .ckpt PyTorch Lightning's. Where only weights are expected, the
# content alone decides.
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt")
_SHARD_INDEX = ".index.json"  # names the files of a checkpoint that is split, such as model.safetensors.index.json
CHECKPOINT_ENDINGS = f"{', '.join(CHECKPOINT_SUFFIXES[:-1])} or {CHECKPOINT_SUFFIXES[-1]}"  # for messages

PLAN_SUFFIXES = (".plan", ".engine")

# What to call a file of each kind, and how it is made.
_NAMES = {CHECKPOINT: "checkpoint", PLAN: "plan", ONNX: "model"}
_ORIGINS = {
    CHECKPOINT: "train writes best.safetensors into a folder under runs/",
    PLAN: "vgg-deploy build MODEL.onnx writes one",
    ONNX: "vgg-deploy export writes one",
}


def kind_of(path: Path) -> str:
    """CHECKPOINT, PLAN or ONNX. A file with any other ending is taken for an ONNX file."""
    if path.suffix in CHECKPOINT_SUFFIXES or path.name.endswith(_SHARD_INDEX):
        return CHECKPOINT
    return PLAN if path.suffix in PLAN_SUFFIXES else ONNX


def require_file(path: Path, kind: str | None = None) -> None:
    """Raises UsageError if the file of a model does not exist, or is a folder; says how such a file is made.

    Args:
        kind: what the file should be. None: what its ending says.
    """
    kind = kind or kind_of(path)
    if not path.exists():
        raise UsageError(f"{path}: no such {_NAMES[kind]}; check the path ({_ORIGINS[kind]})")
    if not path.is_file():
        raise UsageError(f"{path} is not a file; name {kind}")
