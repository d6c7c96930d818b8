"""Secrets are masked in text before it is stored, logged or printed."""

from __future__ import annotations

import pytest

from tunerun.redaction import redact, remember


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASS",
        "PASS_DB",
        "PASSWORD",
        "MYPASSWORD2",
        "DB_PWD",
        "PWD_DB",
        "GITHUB_PAT",
        "PAT_2",
        "CLIENT_SECRET_ID",
        "SECRETS",
        "HF_TOKEN",
        "TOKEN_FILE_CONTENT",
        "APIKEY",
        "KEY_1",
        "my_api_key",
        "GOOGLE_CREDENTIALS",
        "CREDS",
    ],
)
def test_a_variable_whose_name_says_secret_is_masked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PASS, PWD, PAT, SECRET, TOKEN, KEY and CRED in any position."""
    monkeypatch.setenv(name, "planted-value")
    assert redact("before planted-value after") == "before *** after"


@pytest.mark.parametrize("name", ["PWD", "PATH", "PATTERN", "PYTHONPATH", "OLDPWD", "EDITOR"])
def test_a_variable_whose_name_says_nothing_is_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory and search paths are in every message."""
    monkeypatch.setenv(name, "/some/directory")
    assert redact("in /some/directory") == "in /some/directory"


def test_a_value_inside_of_another_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest is masked first."""
    monkeypatch.setenv("A_KEY", "planted-1")
    monkeypatch.setenv("B_KEY", "planted-1-and-more")
    assert redact("planted-1-and-more") == "***"


def test_what_a_config_read_from_the_environment_is_masked_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings and failures may quote it."""
    monkeypatch.setenv("WHERE_ROWS_ARE", "/mnt/planted")
    assert redact("/mnt/planted/rows.csv") == "/mnt/planted/rows.csv"
    remember(["WHERE_ROWS_ARE"])
    assert redact("/mnt/planted/rows.csv") == "***/rows.csv"
