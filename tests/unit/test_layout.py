"""Rules about the project itself: imports, packages, version, README, CI."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support import REPOSITORY

import srtrt
from srtrt.errors import MissingPackageError

FOLDERS = {
    "srtrt": "src/srtrt",
    "srtrt.train": "train",
    "srtrt.export": "export",
    "srtrt.runtime": "runtime",
    "srtrt.benchmarks": "benchmarks",
}
PARTS = ("train", "export", "runtime", "benchmarks")
ALLOWED = {
    "core": set[str](),
    "runtime": {"runtime"},
    "export": {"export", "runtime"},
    "train": {"train"},
    "benchmarks": {"benchmarks", "export", "runtime", "train"},
}
TORCH_FREE = ("runtime", "core")
MAY_USE_TORCH = ("src/srtrt/networks", "src/srtrt/perceptual", "runtime/backends/torch.py")


def sources() -> list[Path]:
    return [
        path for folder in FOLDERS.values() for path in sorted((REPOSITORY / folder).rglob("*.py"))
    ]


def part_of(path: Path) -> str:
    first = path.relative_to(REPOSITORY).parts[0]
    return first if first in PARTS else "core"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_dependencies_point_inward(path: Path) -> None:
    part = part_of(path)
    lazy = path.name == "cli.py" or path == REPOSITORY / "src/srtrt/__init__.py"
    for name in imported(path):
        match = re.match(r"srtrt\.(train|export|runtime|benchmarks)\b", name)
        if match and not lazy:
            assert match[1] in ALLOWED[part], f"{part} imports {name}"
        relative = str(path.relative_to(REPOSITORY))
        if name.split(".")[0] == "torch" and part in TORCH_FREE:
            assert relative.startswith(MAY_USE_TORCH), f"{relative} imports torch"


def test_every_folder_with_code_is_packaged() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = set(re.findall(r'"(srtrt[\w.]*)"', text.split("packages = [")[1].split("]")[0]))
    found = set()
    for package, folder in FOLDERS.items():
        root = REPOSITORY / folder
        for directory in {path.parent for path in root.rglob("*.py")}:
            found.add(".".join([package, *directory.relative_to(root).parts]))
    assert listed == found


def test_version_is_the_newest_of_the_changelog() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == srtrt.__version__
    assert f'version = "{srtrt.__version__}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_ci_runs_the_readme_command_for_the_tests() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    commands = re.findall(r"<!-- fresh machine: (\w+) -->\n+```bash\n(.+?)\n```", readme, re.DOTALL)
    named = dict(commands)
    assert set(named) == {"upscale", "tests"}
    assert named["tests"] in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *map("docs/{}.md".format, ("figures", "gpu", "gpu-results"))],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text()):
        if not target.startswith("http"):
            assert ((REPOSITORY / page).parent / target).exists(), target


def test_the_first_screen_of_the_readme_says_what_matters() -> None:
    first = "\n".join((REPOSITORY / "README.md").read_text().splitlines()[:40])
    places = [
        first.index(words)
        for words in (
            "verified FP16 TensorRT engine",
            "](docs/before-after.jpg)",
            "no NVIDIA GPU was at hand",
            "srtrt export ",
            "srtrt upscale-video in.mp4",
            "srtrt benchmark ",
            "<!-- fresh machine: upscale -->",
            "--model fast",
            "For people who",
        )
    ]
    assert places == sorted(places)


def test_public_names_exist() -> None:
    for name in srtrt.__all__:
        assert getattr(srtrt, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        srtrt.nothing  # noqa: B018


def test_install_hints_name_what_can_be_installed() -> None:
    """srtrt is on no package index, so no line may name it there; extras named must exist."""
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    extras = set(re.findall(r"^([\w-]+) = \[", pyproject.split("optional-dependencies]")[1], re.M))
    assert str(MissingPackageError("torch", "train", "training")).endswith(
        "pip install '.[train]' in a clone of srtrt, "
        'or pip install "srtrt[train] @ git+URL-OF-ITS-REPOSITORY".'
    )
    texts = [p.read_text() for p in (*sources(), REPOSITORY / "README.md")]
    for text in texts:
        lines = re.findall(r"pip install .*srtrt\[[^\]]+\].*", text)
        assert all("] @ git+" in line for line in lines)
        named = re.findall(r"MissingPackageError\([^)]*?, \"(\w+)\"", text)
        named += re.findall(r"install_hint\([\"'](\w+)", text)
        assert set(named) <= extras
