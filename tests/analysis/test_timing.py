"""Commands in reports."""

import pytest

from mmvitconv.analysis.timing import command_line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "python tool.py"),
        (["--seeds", "0", "1"], "python tool.py --seeds 0 1"),
        (["--out", "/tmp/x y", "--threads", "2"], "python tool.py --threads 2"),
        (["--threads", "2", "--out=/tmp/x"], "python tool.py --threads 2"),
    ],
)
def test_a_command_leaves_the_folder_of_one_machine_out(arguments: list[str], expected: str):
    assert command_line("tool.py", arguments) == expected
