"""JSON and YAML that is damaged or means harm: one sentence, quickly, wherever it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import REPOSITORY

from srtrt.cli import main
from srtrt.errors import InputError, ModelError, SrtrtError
from srtrt.plain_data import DataError, read_json, read_json_object, shown
from srtrt.spec import ModelSpec
from srtrt.train.config import TrainConfig, config_from_dict, read_config
from srtrt.train.run_log import read_log
from srtrt.train.yaml_data import MAX_YAML_BYTES, read_yaml

JSON = {
    "[" * 100_000: "nested more than 32 deep",
    '{"a":' * 100_000: "nested more than 32 deep",
    "[" * 33 + "]" * 33: "nested more than 32 deep",
    '{"a": 1, "a": 2}': "the name 'a' twice",
    "[NaN]": "the number NaN",
    "[-1e999]": "the number -inf",
    '["\\ud800"]': "in the middle of a letter",
    "9" * 5000: "no JSON",
    "[123456789012345678901]": "more than 64 bits",
    "[1, 2": "no JSON",
    "": "no JSON",
}


@pytest.mark.parametrize("text", JSON, ids=lambda text: str(text)[:12])
def test_json_that_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=JSON[text]) as caught:
        read_json(text)
    assert len(str(caught.value)) < 300
    with pytest.raises(ModelError, match=r"^x\.onnx: its spec is unreadable: .*\.$"):
        ModelSpec.from_json(text, source="x.onnx")


def test_json_has_bounds_and_a_kind() -> None:
    assert read_json(b'["\xc3\xa9", 1.5, null, true]') == ["é", 1.5, None, True]
    assert read_json("[" * 32 + "]" * 32)
    with pytest.raises(DataError, match="not UTF-8"):
        read_json(b'"\xff"')
    with pytest.raises(DataError, match="it has 4 bytes"):
        read_json("null", most=3)
    with pytest.raises(DataError, match=r"it is \[1, 2, 3, 4, 5, 6, \.\.\.\]; expected names"):
        read_json_object(json.dumps(list(range(1, 100))))


YAML = {
    "[" * 100_000: "nested more than 32 deep",
    "- " * 400: "nested more than 32 deep",
    "a: &a [x, *a]": "holds itself",
    "a: 1\nb: 2\na: 3": "the name 'a' twice",
    "!!python/object/apply:os.system [x]": "has the tag",
    "!!int words": "has the tag",
    '!!float ""': "has the tag",
    "!!set {a, b}": "has the tag",
    "{1: 2}": "the name 1; expected text",
    "? [1]\n: 2": "a name that is no text",
    "0b_": "impossible value",
    ".inf": "the number inf",
    "1" + ":0" * 99: "more than 64 bits",
    '"\\ud800"': "in the middle of a letter",
    "a: [": "no YAML",
    "--- 1\n--- 2": "no YAML",
    "*nobody": "no YAML",
    "x" * (MAX_YAML_BYTES + 1): "YAML of at most",
}


@pytest.mark.parametrize("text", YAML, ids=lambda text: repr(text)[:12])
def test_yaml_that_is_not_plain_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=YAML[text]) as caught:
        read_yaml(text)
    assert len(str(caught.value)) < 300
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml: "):
        read_config(tmp_path / "c.yaml")


def test_plain_yaml_is_read() -> None:
    assert read_yaml("") is None
    assert read_yaml("a: &x {b: 1e-4}\nc: {<<: *x, d: 2001-01-01}") == {
        "a": {"b": "1e-4"}, "c": {"b": "1e-4", "d": "2001-01-01"},
    }  # fmt: skip
    for preset in sorted((REPOSITORY / "train" / "presets").glob("*.yaml")):
        assert read_yaml(preset.read_bytes()) == yaml.safe_load(preset.read_text())


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join([*lines, f"data: {{batch: *a{levels - 1}}}"])


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert len(done.output.strip()) < 500
    return done.output


def test_aliases_that_multiply_are_refused_by_train(tmp_path: Path) -> None:
    settings_file = tmp_path / "bomb.yaml"
    settings_file.write_text(bomb(12))
    output = refused("train", "--data", tmp_path, "--config", settings_file)
    assert "more than 10000 values, those that aliases repeat included" in output


def test_what_is_no_settings_file_is_refused_by_train(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for name, message in (
        ("binary.yaml", "is not UTF-8"),
        ("", "is a folder; expected settings as YAML"),
        ("x" * 300, "cannot be read (File name too long)"),
        ("none.yaml", "no such file"),
    ):
        config = tmp_path / name
        assert message in refused("train", "--data", tmp_path, "--config", config)
    output = refused("train", "--data", tmp_path, "--set", f"data.batch={'[' * 5000}")
    assert "nested more than 32 deep" in output


VALUES: list[Any] = [
    None, True, -1, 0, 2**62, 1e308, -0.0, "", "x" * 500, "\x1b[31m", [], [[]], [1] * 50, {},
    {"a": 1}, "1e-4", "nan", "inf",
]  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_value_of_another_kind_is_a_sentence(data: st.DataObject) -> None:
    values = TrainConfig().to_dict()
    section = data.draw(st.sampled_from(sorted(values)))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([*values[section], "typo"]))
        values[section][name] = data.draw(st.sampled_from(VALUES))
    if data.draw(st.integers(0, 4)) == 0:
        values[section] = data.draw(st.sampled_from(VALUES))
    message = ""
    try:
        config_from_dict(values, source="c.yaml")
    except SrtrtError as error:
        message = str(error)
    assert len(message) < 1500
    assert "\x1b" not in message


def test_a_section_that_is_none_is_named() -> None:
    with pytest.raises(SrtrtError, match="data is None; expected settings below it, such as mode"):
        config_from_dict({"data": None}, source="c.yaml")


@pytest.mark.parametrize("size", ["blocks=1000000000", "features=1000000000"])
def test_sizes_beyond_all_networks_are_refused_before_one_is_built(size: str) -> None:
    with pytest.raises(SrtrtError, match="expected a whole number from"):
        TrainConfig().with_settings([f"generator.{size}"])


def test_damaged_lines_of_a_log_are_empty(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n[1]\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": 2}\n{"st')
    found = [line.values for line in read_log(log)]
    assert found == [{"step": 1}, {}, {}, {}, {"step": 2}, {}]
    with pytest.raises(InputError, match="this is a folder"):
        list(read_log(tmp_path))


def test_long_values_are_shortened() -> None:
    for value in ("x" * 10_000, list(range(10_000)), {str(i): i for i in range(1000)}, [[[[[1]]]]]):
        assert len(shown(value)) < 120
