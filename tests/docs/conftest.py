"""What all tests of pages share."""

import pytest


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks of code leave nothing in the user's cache."""
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path_factory.mktemp("home")))
