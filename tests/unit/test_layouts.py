"""Folders of DIV2K, Flickr2K and plain pictures, as their archives unpack."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from srtrt.datasets import list_images
from srtrt.errors import InputError
from srtrt.train.layouts import find_pictures


def touch(folder: Path, *names: str) -> None:
    """Empty files: only names matter here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def div2k(folder: Path) -> Path:
    touch(
        folder,
        *("DIV2K_train_HR/0001.png", "DIV2K_train_HR/0002.png"),
        *("DIV2K_valid_HR/0801.png", "DIV2K_valid_HR/0802.png"),
        *("DIV2K_train_LR_bicubic/X4/0001x4.png", "DIV2K_train_LR_unknown/X2/0001x2.png"),
        *("DIV2K_train_LR_x8/0001x8.png", "DIV2K_valid_LR_bicubic/X4/0801x4.png"),
    )
    return folder


def flickr2k(folder: Path) -> Path:
    touch(folder, "Flickr2K_HR/000001.png", "Flickr2K_HR/000002.png")
    touch(folder, "Flickr2K_LR_bicubic/X2/000001x2.png", "Flickr2K_LR_unknown/X4/000001x4.png")
    return folder


def names(*folders: Path, split: Literal["train", "valid"] = "train") -> tuple[str, list[str]]:
    found = find_pictures(folders, split=split)
    return found.name, [path.name for path in found.files]


TRAIN = ("DIV2K", ["0001.png", "0002.png"])
VALID = ("DIV2K", ["0801.png", "0802.png"])
FLICKR = ("Flickr2K", ["000001.png", "000002.png"])
BOTH = ("DF2K", ["0001.png", "0002.png", "000001.png", "000002.png"])


@pytest.mark.parametrize("given", ["DIV2K/DIV2K_train_HR", "DIV2K", "."])
def test_div2k_from_its_folder_or_above(tmp_path: Path, given: str) -> None:
    div2k(tmp_path / "DIV2K")
    assert names(tmp_path / given) == TRAIN


@pytest.mark.parametrize("given", ["DIV2K/DIV2K_valid_HR", "DIV2K", "."])
def test_validation_half_of_div2k(tmp_path: Path, given: str) -> None:
    div2k(tmp_path / "DIV2K")
    assert names(tmp_path / given, split="valid") == VALID


@pytest.mark.parametrize("given", ["Flickr2K/Flickr2K_HR", "Flickr2K", "."])
def test_flickr2k_from_its_folder_or_above(tmp_path: Path, given: str) -> None:
    flickr2k(tmp_path / "Flickr2K")
    assert names(tmp_path / given) == FLICKR


def test_left_out_folders_are_listed(tmp_path: Path) -> None:
    div2k(tmp_path)
    assert [path.name for path in find_pictures([tmp_path]).ignored] == [
        "DIV2K_train_LR_bicubic",
        "DIV2K_train_LR_unknown",
        "DIV2K_train_LR_x8",
        "DIV2K_valid_HR",
        "DIV2K_valid_LR_bicubic",
    ]
    valid = find_pictures([tmp_path], split="valid").ignored
    assert tmp_path / "DIV2K_train_HR" in valid
    assert tmp_path / "DIV2K_valid_HR" not in valid


def test_df2k_in_its_three_shapes(tmp_path: Path) -> None:
    div2k(tmp_path / "a/DIV2K")
    flickr2k(tmp_path / "a/Flickr2K")
    div2k(flickr2k(tmp_path / "b"))
    touch(tmp_path / "c/DF2K_HR", *BOTH[1])
    for shape in "abc":
        name, files = names(tmp_path / shape)
        assert (name, sorted(files)) == ("DF2K", sorted(BOTH[1])), shape
    assert names(tmp_path / "a", split="valid") == VALID


def test_a_joint_folder_is_not_counted_twice(tmp_path: Path) -> None:
    div2k(flickr2k(tmp_path))
    touch(tmp_path / "DF2K_HR", "joint.png", "DIV2K_valid_HR/0801.png")
    found = find_pictures([tmp_path])
    assert found.files == (tmp_path / "DF2K_HR/joint.png",)
    left_out = {"DIV2K_train_HR", "Flickr2K_HR", "DIV2K_valid_HR"}
    assert left_out <= {path.name for path in found.ignored}


def test_several_folders_are_joined(tmp_path: Path) -> None:
    div2k(tmp_path / "x")
    flickr2k(tmp_path / "y")
    touch(tmp_path / "birds", "b.jpg", "a/c.JPG")
    assert names(tmp_path / "x", tmp_path / "y")[0] == "DF2K"
    name, files = names(tmp_path / "birds", tmp_path / "y", tmp_path / "x")
    assert name == "birds+DF2K"
    assert sorted(files) == sorted(["b.jpg", "c.JPG", *BOTH[1]])
    assert names(tmp_path / "x", tmp_path / "birds")[0] == "DIV2K+birds"


def test_files_are_sorted_and_taken_once(tmp_path: Path) -> None:
    div2k(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "DIV2K_train_HR")
    found = find_pictures([tmp_path / "DIV2K_train_HR", tmp_path, tmp_path])
    assert [path.name for path in found.files] == TRAIN[1]
    assert list(found.files) == sorted(found.files)


def test_a_plain_folder_stays_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "photos", "b.png", "deep/er/a.webp", "train/t.jpg", "valid/v.tif", "notes.txt")
    touch(
        tmp_path / "photos", "._a.png", ".thumbnails/t.png", "__MACOSX/m.png", "raw_lr_edit/l.png"
    )
    wanted = ("photos", ["b.png", "a.webp", "l.png", "t.jpg", "v.tif"])
    assert names(tmp_path / "photos") == wanted
    assert find_pictures([tmp_path / "photos"]).ignored == ()
    monkeypatch.chdir(tmp_path / "photos")
    assert names(Path()) == wanted


@pytest.mark.parametrize("called", ["FLICKR2K", "Flickr2k", "flickr2k"])
def test_plain_folders_called_like_the_datasets_are_those(tmp_path: Path, called: str) -> None:
    touch(tmp_path / called, "000001.png", "more/000002.png")
    div2k(tmp_path / "DIV2K")
    assert names(tmp_path / called) == ("Flickr2K", FLICKR[1])
    assert names(tmp_path / "DIV2K", tmp_path / called)[0] == "DF2K"
    assert names(tmp_path) == ("DF2K", TRAIN[1] + FLICKR[1])
    touch(tmp_path / "DIV2K", "stray.png", "DIV2K_train_HR/0003.png")
    assert "stray.png" not in names(tmp_path / "DIV2K")[1], "it has folders of its own"


def test_numbers_tell_the_halves_of_a_plain_div2k(tmp_path: Path) -> None:
    touch(tmp_path / "div2k", "0001.png", "0800.png", "0801.png", "0900.png")
    assert names(tmp_path / "div2k") == ("DIV2K", ["0001.png", "0800.png"])
    assert names(tmp_path / "div2k", split="valid") == ("DIV2K", ["0801.png", "0900.png"])


@pytest.mark.parametrize("reduced", ["Set_LR_bicubic", "LR", "lr", "img_LRbicx4", "LRbicx4"])
def test_lr_copies_in_a_plain_folder_are_left_out(tmp_path: Path, reduced: str) -> None:
    touch(tmp_path, "GTmod12/a.png", f"{reduced}/X4/a.png", f"{reduced}/b.png")
    found = find_pictures([tmp_path])
    assert found.files == (tmp_path / "GTmod12/a.png",)
    assert found.ignored == (tmp_path / reduced,)


def test_other_pictures_beside_a_known_dataset_are_left_out(tmp_path: Path) -> None:
    div2k(tmp_path / "DIV2K")
    touch(tmp_path, "Set5/baby.png", "DIV2K/DIV2K_train_HR_sub/0001_s001.png")
    found = find_pictures([tmp_path])
    assert [path.name for path in found.files] == TRAIN[1]
    assert {tmp_path / "Set5", tmp_path / "DIV2K/DIV2K_train_HR_sub"} <= {*found.ignored}


def test_links_and_folders_within_their_like(tmp_path: Path) -> None:
    touch(tmp_path / "disk/DIV2K_train_HR/DIV2K_train_HR", "0001.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/DIV2K").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/loop").symlink_to(tmp_path / "data")
    assert names(tmp_path / "data") == ("DIV2K", ["0001.png"])


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        ((), "nowhere", "nowhere: no such folder; expected a folder of pictures"),
        (("DIV2K_train_HR.zip",), "DIV2K_train_HR", r"but .*DIV2K_train_HR\.zip is there; unpack"),
        (("DIV2K_train_HR.zip",), "DIV2K_train_HR.zip", "an archive; unpack it"),
        (("DIV2K_train_HR.zip", "a.txt"), ".", r"\(DIV2K_train_HR.zip; unpack .*1 file of other"),
        (("a.png",), "a.png", "a file; expected a folder"),
        (("empty/x/.hidden",), "empty", "an empty folder. Expected .*DIV2K_train_HR, Flickr2K_HR"),
        (("a.txt", "b.tar"), ".", r"packed archives \(b.tar.*1 file of other kinds"),
        (("DIV2K_train_LR_bicubic/X4/1.png",), ".", r"only LR copies \(DIV2K_train_LR_bicubic\)"),
        (("DIV2K_train_LR_bicubic/X4/1.png",), "DIV2K_train_LR_bicubic", "only LR copies"),
        (("DIV2K_train_LR_bicubic/X4/1.png",), "DIV2K_train_LR_bicubic/X4", r"LR copies \(X4\)"),
        (("DIV2K_valid_HR/0801.png",), ".", r"only another split \(DIV2K_valid_HR\)"),
        (("DIV2K_valid_HR/0801.png",), "DIV2K_valid_HR", "only another split"),
        (
            ("DIV2K_train_HR/a.txt", "Flickr2K_HR/1.png"),
            ".",
            r"DIV2K_train_HR: holds no picture; expected those of DIV2K",
        ),
    ],
)
def test_nothing_usable_says_what_was_found(
    tmp_path: Path, made: tuple[str, ...], given: str, message: str
) -> None:
    touch(tmp_path, *made)
    with pytest.raises(InputError, match=message):
        find_pictures([tmp_path / given])


def test_a_training_set_has_no_validation_pictures(tmp_path: Path) -> None:
    flickr2k(tmp_path)
    with pytest.raises(InputError, match=r"another split \(Flickr2K_HR\).*holds DIV2K_valid_HR"):
        find_pictures([tmp_path], split="valid")


def test_every_folder_must_be_of_use(tmp_path: Path) -> None:
    div2k(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    with pytest.raises(InputError, match="bad: an empty folder"):
        find_pictures([tmp_path / "good", tmp_path / "bad"])


@pytest.mark.parametrize("split", ["train", "valid"])
def test_folders_that_cannot_be_reached_are_a_sentence(
    split: Literal["train", "valid"], tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name, reason in (
        ("n" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("file/below", "Not a directory"),
        ("null\0", "null"),
    ):
        with pytest.raises(InputError, match=reason):
            find_pictures([tmp_path / name], split=split)
        with pytest.raises(InputError, match=reason):
            list_images([tmp_path / name])


def test_a_picture_that_is_a_link_to_itself_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    assert find_pictures([tmp_path]).files == (tmp_path / "a.png",)


def test_folders_deep_inside_one_another_are_refused(tmp_path: Path) -> None:
    (tmp_path / Path(*["d"] * 250)).mkdir(parents=True)
    with pytest.raises(InputError, match="lies more than 200 folders deep"):
        find_pictures([tmp_path])


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may be allowed to list everything."""
    (tmp_path / "in" / "secret").mkdir(parents=True)
    (tmp_path / "in" / "a.png").touch()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"secret: cannot be read \(Permission denied\)"):
        list_images([tmp_path / "in"])
