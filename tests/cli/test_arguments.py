"""Values of ``--cfg-options``, and sides of images."""

from argparse import ArgumentParser

import pytest

from mmvitconv.cli.arguments import SidesAction, add_config_arguments, positive
from mmvitconv.errors import UserError


def parse(*pairs: str) -> dict:
    parser = ArgumentParser()
    add_config_arguments(parser)
    return parser.parse_args(["x.py", "--cfg-options", *pairs]).cfg_options


def test_values_may_hold_dicts() -> None:
    options = parse("a.b=1e-3", "c=[1,(2,x)]", "d=[{'type': 'EMAHook', 'momentum': 0.1}]")
    expected = {"a.b": 1e-3, "c": [1, (2, "x")], "d": [{"type": "EMAHook", "momentum": 0.1}]}
    assert options == expected


@pytest.mark.parametrize("value", ["[dict(type='EMAHook')]", "{'type': EMAHook}", "{'a'"])
def test_values_that_are_no_literals(value: str) -> None:
    with pytest.raises(UserError, match="a value with dicts is written as"):
        parse(f"custom_hooks={value}")


def test_sides(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--size", action=SidesAction, type=positive)
    assert parser.parse_args([]).size is None
    assert parser.parse_args(["--size", "32"]).size == (32, 32)
    assert parser.parse_args(["--size", "32", "48"]).size == (32, 48)
    for wrong in (["1", "2", "3"], ["0"], ["x"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["--size", *wrong])
    assert "--size takes one or two numbers, got 3" in capsys.readouterr().err
