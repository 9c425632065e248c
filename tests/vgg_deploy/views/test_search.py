"""The search for image files: what a folder gives, what it passes over, and what it opens."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.views import search as search_module
from vgg_deploy.views.formats import HEIC, JPEG_XL, format_of
from vgg_deploy.views.images import decode
from vgg_deploy.views.search import FolderSearch, find_images

HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JPEG_XL_HEAD = b"\0\0\0\x0cJXL \r\n\x87\n"


def saved(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 100, 50)).save(path, **options)
    return path


def touched(folder: Path, names: Iterable[str], content: bytes = b"x") -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)


def searched(folder: Path) -> tuple[list[str], str | None]:
    search = FolderSearch()
    names = [path.relative_to(folder).as_posix() for path in find_images([str(folder)], search)]
    return names, search.summary()


@pytest.fixture
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("b.mpo", "MPO"),
        ("c.jfif", "JPEG"),
        ("d.j2k", "JPEG2000"),
        ("e.jpf", "JPEG2000"),
        ("scan.jpg.1", "JPEG"),
        ("noending", "JPEG"),
        ("png", "PNG"),
        ("f.webp_original", "WEBP"),
        ("g.tif~", "TIFF"),
        ("h.bitmap", "BMP"),
        ("i.0", "GIF"),
        ("j.pixels", "PPM"),
        ("k.jpx_old", "JPEG2000"),
    ],
)
def test_a_folder_gives_every_picture_by_its_ending_or_its_content(tmp_path: Path, name: str, format: str) -> None:
    options: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]} if format == "MPO" else {}
    path = saved(tmp_path / name, format=format, **options)
    assert searched(tmp_path) == ([name], None)
    np.testing.assert_allclose(decode(path)[4, 4], (200, 100, 50), atol=6)


def test_avif_is_known_by_its_brands() -> None:
    assert format_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    assert format_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf") is HEIC
    assert format_of(b"\0\0\0\x1cftypisom\0\0\0\0isommp41avc1") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW and Audi are makers of cars, and this is a text about them", b"P1 is a name", b"RIFF1234WAVE"],
)
def test_other_content_is_no_picture(content: bytes) -> None:
    assert format_of(content) is None


def test_one_line_says_what_was_passed_over_by_ending(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    saved(tmp_path / "sub" / "b.png")
    touched(tmp_path, [".DS_Store", ".a.jpg", "1.txt", "2.TXT", "3.csv", "README", "Thumbs.db", "x.weights"])
    names, line = searched(tmp_path)
    assert names == ["a.png", "sub/b.png"]
    assert line is not None
    assert line.startswith("found 2 images; passed over 2 .txt, ")
    assert line.endswith(" and 1 other")
    for text in ("1 .DS_Store", "1 hidden .jpg", "1 without ending", "1 .csv", "1 .db"):
        assert text in line


def test_a_folder_of_pictures_alone_says_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    assert searched(tmp_path) == (["a.png"], None)


def test_raw_pictures_are_named_with_what_to_do_and_their_previews_are_not_read(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    saved(tmp_path / "b.dng", format="TIFF")
    assert searched(tmp_path) == (
        ["a.png"],
        "found 1 image; cannot read 1 .dng: convert them to JPEG, PNG or TIFF",
    )


def test_a_folder_without_a_picture_is_refused_with_what_it_has(tmp_path: Path) -> None:
    touched(tmp_path, ["1.txt", "2.txt"])
    saved(tmp_path / "b.nef", format="TIFF")
    with pytest.raises(UsageError, match=r"no image .* \(passed over 2 \.txt; cannot read 1 \.nef: convert .*\.heic"):
        searched(tmp_path)


def test_files_are_opened_only_if_their_ending_is_missing_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched(tmp_path, ["a.jpg", "b.PNG", "c.txt", "d.json", "Thumbs.db", "e.heic", "f.dng", ".g", "h", "i.part"])
    opened: list[str] = []
    content = search_module._kind_by_content
    monkeypatch.setattr(
        search_module, "_kind_by_content", lambda path: (opened.append(Path(path).name), content(path))[1]
    )
    searched(tmp_path)
    assert opened == ["h", "i.part"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_does_not_stop_the_search(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    assert searched(tmp_path) == (["a.png"], "found 1 image; passed over 1 without ending")


def test_without_their_packages_heic_and_jpeg_xl_are_named_with_the_remedy(
    tmp_path: Path, without_plugins: None
) -> None:
    touched(tmp_path, ["1.HEIC", "2"], HEIC_HEAD)
    touched(tmp_path, ["3.jxl"], JPEG_XL_HEAD)
    saved(tmp_path / "4.jpg")
    names, line = searched(tmp_path)
    assert names == ["1.HEIC", "2", "3.jxl", "4.jpg"]
    assert line == "found 4 images; 2 HEIC, 1 JPEG XL cannot be read yet: " + (
        "pip install '.[heic,jxl]' in a clone of vgg_deploy"
    )


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("x.jpg", HEIC_HEAD, r"it is HEIC, and needs pillow-heif, .*\[heic\]"),
        ("x", JPEG_XL_HEAD, r"it is JPEG XL, and needs pillow-jxl-plugin, .*\[jxl\]"),
        ("x.jxl", b"\xff\x0a\x0f\x07", "it is JPEG XL"),
    ],
)
def test_decoding_names_the_missing_package_by_the_content(
    tmp_path: Path, without_plugins: None, name: str, content: bytes, named: str
) -> None:
    touched(tmp_path, [name], content)
    with pytest.raises(ImageError, match=named):
        decode(tmp_path / name)


@pytest.mark.parametrize("ending", ["heic", "jxl"])
def test_with_its_package_a_picture_is_read_under_any_name_and_upright(tmp_path: Path, ending: str) -> None:
    plugin = {"heic": HEIC, "jxl": JPEG_XL}[ending]
    module = pytest.importorskip(plugin.module, reason=f"{plugin.package} is not installed (extra {plugin.extra})")
    if plugin is HEIC:
        module.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # row 0 of the file is the right side
    path = tmp_path / f"x.{ending}"
    stored = Image.new("RGB", (96, 64), (200, 100, 50))
    stored.paste((20, 40, 220), (0, 0, 48, 64))
    stored.save(path, exif=exif.tobytes(), quality=95)
    path.rename(tmp_path / "noending")
    pixels = decode(tmp_path / "noending")
    assert pixels.shape == (96, 64, 3)
    np.testing.assert_allclose(pixels[10, 32], (20, 40, 220), atol=12)
    np.testing.assert_allclose(pixels[90, 32], (200, 100, 50), atol=12)
    assert searched(tmp_path) == (["noending"], None)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: it has images, other files and hidden files."""
    for name in (
        "b.jpg",
        "a.PNG",
        "photo[1].jpg",
        "notes.txt",
        ".hidden.jpg",
        "._b.jpg",
        "sub/c.webp",
        "sub/deep/d.tiff",
        "sub/.cache/e.jpg",
        "sub[2]/f.bmp",
        "texts/readme.md",
        "hidden/.only.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("absent")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["b.jpg", "b.jpg"], ["b.jpg", "b.jpg"]),
        (["sub", "b.jpg"], ["sub/c.webp", "sub/deep/d.tiff", "b.jpg"]),
        (["notes.txt"], ["notes.txt"]),
        ([".hidden.jpg"], [".hidden.jpg"]),
        (["dangling.jpg"], ["dangling.jpg"]),
        (["photo[1].jpg"], ["photo[1].jpg"]),
        (["sub[2]"], ["sub[2]/f.bmp"]),
        (["b*.jpg"], ["b.jpg"]),
        (["?.*"], ["a.PNG", "b.jpg"]),
        (["**/*.tiff"], ["sub/deep/d.tiff"]),
        (["su[b]"], ["sub/c.webp", "sub/deep/d.tiff"]),
        ([], []),
    ],
)
def test_files_folders_and_patterns_are_found_in_the_order_given(
    tree: Path, paths: list[str], expected: list[str]
) -> None:
    assert list(find_images(paths)) == [Path(name) for name in expected]


def test_a_folder_is_searched_whole_in_sorted_order_without_hidden_files(tree: Path) -> None:
    names = [path.relative_to(tree).as_posix() for path in find_images([str(tree)])]
    assert names == ["a.PNG", "b.jpg", "dangling.jpg", "photo[1].jpg", "sub/c.webp", "sub/deep/d.tiff", "sub[2]/f.bmp"]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("absent.jpg", "absent.jpg: no such file or folder"),
        ("absent*.jpg", "no file matches this pattern"),
        ("nothing", r"no image in this folder or below it; images end in .*\.jpg"),
        ("hidden", "no image in this folder"),
        ("", "an image path is empty"),
    ],
)
def test_a_path_that_gives_no_image_is_refused(tree: Path, path: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        list(find_images([path]))


def test_images_are_found_one_by_one(tree: Path) -> None:
    assert next(find_images(["b.jpg", "absent.jpg"])) == Path("b.jpg")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_folders_behind_links_are_searched_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    real, tree = tmp_path / "real", tmp_path / "tree"
    real.mkdir()
    tree.mkdir()
    saved(real / "a.png")
    (tree / "linked").symlink_to(real)
    (real / "circle").symlink_to(tree)
    assert list(find_images([str(tree)])) == [tree / "linked" / "a.png"]


def test_a_folder_that_cannot_be_searched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.png")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match=r"locked: this folder cannot be searched \(Permission denied\)"):
        list(find_images([str(tmp_path)]))
