"""Kinds of picture files: by their endings, by their first bytes, and those that need a package of their own."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import struct
from dataclasses import dataclass

from vgg_deploy.install import install_command

# Endings that a folder search takes for pictures without opening the file. HEIC and JPEG XL are below.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"}
    | {".tga", ".ico"}
)

# Pictures that are not read. Many of them hold a small preview as JPEG or TIFF, so their content would deceive.
UNREAD_SUFFIXES = frozenset(
    {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw"}
    | {".raw", ".3fr", ".iiq", ".x3f", ".psd", ".psb", ".xcf", ".svg", ".exr", ".hdr", ".eps", ".ai", ".dcm", ".bpg"}
)

# Endings of files that are no pictures. A folder search does not open them. .thm is the preview of a video.
OTHER_SUFFIXES = frozenset(
    {".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst", ".html"}
    | {".htm", ".css", ".js", ".py", ".pyc", ".ipynb", ".sh", ".m", ".log", ".db", ".lnk", ".url", ".aae", ".xmp"}
    | {".thm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
    | {".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".mat", ".npy", ".npz", ".pkl", ".h5", ".hdf5"}
    | {".parquet", ".lmdb", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".plan", ".exe", ".dll", ".so"}
)

HEAD_BYTES = 64  # as many first bytes as `format_of` wants to see


@dataclass(frozen=True, slots=True)
class PluginFormat:
    """A kind of picture that Pillow reads only with another package.

    Attributes:
        name: as users know it.
        package, module: of the plug-in: its name for pip, and for import.
        extra: the extra of this package that installs it.
        suffixes: endings in lower case.
    """

    name: str
    package: str
    module: str
    extra: str
    suffixes: frozenset[str]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def remedy(self) -> str:
        """Follows the name of the kind, or of the file."""
        return f"needs {self.package}, which is not installed: {install_command(self.extra)}"


HEIC = PluginFormat("HEIC", "pillow-heif", "pillow_heif", "heic", frozenset({".heic", ".heif", ".hif"}))
JPEG_XL = PluginFormat("JPEG XL", "pillow-jxl-plugin", "pillow_jxl", "jxl", frozenset({".jxl"}))
PLUGIN_OF_SUFFIX = {suffix: plugin for plugin in (HEIC, JPEG_XL) for suffix in plugin.suffixes}


@functools.cache
def register(plugin: PluginFormat) -> None:
    """Makes Pillow read this kind of picture. The package must be installed."""
    module = importlib.import_module(plugin.module)  # pillow_jxl registers itself when it is imported
    if plugin is HEIC:
        module.register_heif_opener()


def format_of(head: bytes) -> str | PluginFormat | None:
    """The kind of picture that a file with these first bytes is; None if it is none that can be read.

    TGA and ICO have no bytes by which they can be known surely, so only their endings tell.

    Args:
        head: the first `HEAD_BYTES` bytes of the file; fewer if it is shorter.
    """
    for name, pattern in _SIGNATURES.items():
        if re.match(pattern, head, re.DOTALL):
            return name
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return JPEG_XL
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    return None


_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    # A text may begin with BM: the reserved bytes are 0, and the size of the second header is one of those in use.
    "BMP": rb"BM.{4}\0{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PNM": rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s",
}


def _format_of_brands(head: bytes) -> str | PluginFormat | None:
    """ISO/IEC 14496-12: length of the box, "ftyp", the brand, a version, and the brands that it is compatible with."""
    (length,) = struct.unpack(">I", head[:4])
    brands = {head[8:12]} | {head[start : start + 4] for start in range(16, min(length, len(head)), 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}:
        return HEIC
    return None
