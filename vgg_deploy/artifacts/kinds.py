"""What a file is, by the ending of its name: a checkpoint, a TensorRT plan, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CHECKPOINT, PLAN, ONNX = "a checkpoint", "a TensorRT plan", "an ONNX file"

SAFETENSORS, PICKLE = "safetensors", "pickle"
# The format of a checkpoint with each ending. torch.save writes the pickles: .bin is Hugging Face's ending, .tar the
# ending of torchvision's training scripts (model.pth.tar), and .ckpt PyTorch Lightning's.
CHECKPOINT_FORMATS: Mapping[str, str] = {
    ".safetensors": SAFETENSORS,
    ".pt": PICKLE,
    ".pth": PICKLE,
    ".bin": PICKLE,
    ".tar": PICKLE,
    ".ckpt": PICKLE,
}
CHECKPOINT_SUFFIXES = tuple(CHECKPOINT_FORMATS)
CHECKPOINT_ENDINGS = f"{', '.join(CHECKPOINT_SUFFIXES[:-1])} or {CHECKPOINT_SUFFIXES[-1]}"  # for messages

PLAN_SUFFIXES = (".plan", ".engine")


def kind_of(path: Path) -> str:
    """CHECKPOINT, PLAN or ONNX. A file with any other ending is taken for an ONNX file."""
    if path.suffix in CHECKPOINT_FORMATS:
        return CHECKPOINT
    return PLAN if path.suffix in PLAN_SUFFIXES else ONNX
