"""What is shown of an address and of messages about it, and command lines without passwords."""

import json
import subprocess
import sys

import pytest

from study.masking import masked, scrubbed, split

URL = "postgresql+psycopg://bob:geheim%2F27@host:5432/optuna?sslpassword=privat"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (URL, "postgresql+psycopg://***@host:5432/optuna?***"),
        ("http://bob:ge@he/im@host:5000", "http://***@host:5000"),
        ("https://token@host", "https://***@host"),
        ("postgresql://host/optuna?user=bob&password=geheim", "postgresql://host/optuna?***"),
        ("bob:geheim@host", "***@host"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/my runs/optuna.db", "sqlite:////home/my runs/optuna.db"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address, shown):
    assert masked(address) == shown


@pytest.mark.parametrize("message", [f"cannot reach {URL}", "for geheim/27", "for geheim%2F27", "key privat"])
def test_a_message_is_shown_without_the_secrets_of_an_address(message):
    shown = scrubbed(message, URL)
    assert "***" in shown
    assert not any(secret in shown for secret in ("geheim", "privat"))


def test_a_message_is_shown_without_the_passwords_of_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "vertraulich")
    assert scrubbed("bob:vertraulich was refused", "http://host") == "bob:*** was refused"


def test_an_object_store_s_keys_are_secrets(monkeypatch):
    uri = "s3://KEY:ge%2Fheim@bucket/runs?endpoint_override=host:9000"
    assert masked(uri) == "s3://***@bucket/runs?***"
    assert split(["run", "smoke", f"--storage-path={uri}"]) == (["run", "smoke"], {"STUDY_STORAGE_PATH": uri})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "vertraulich")
    assert scrubbed("vertraulich and ge/heim", uri) == "*** and ***"


def test_a_short_password_does_not_blot_out_the_message():
    assert scrubbed("a table is absent", "http://bob:a@host") == "a table is absent"


def test_arguments_with_a_password_go_to_the_environment_and_others_stay():
    kept, variables = split(
        ["run", "smoke", "--optuna-storage", URL, "--trials", "3", "--tracking-uri=http://bob:geheim@host"]
    )
    assert kept == ["run", "smoke", "--trials", "3"]
    assert variables == {"STUDY_OPTUNA_STORAGE": URL, "MLFLOW_TRACKING_URI": "http://bob:geheim@host"}
    plain = ["run", "--tracking-uri", "http://host:5000", "--optuna-storage=sqlite:///x.db", "--tracking-uri"]
    assert split(plain) == (plain, {})


def test_the_process_list_does_not_show_a_password():
    """The program is started anew under the same process id, and its command line is the clean one."""
    program = (
        "import json, os, sys; from pathlib import Path; from study import masking; "
        "masking.keep_off_the_process_list(); "
        "print(json.dumps([sys.argv[1:], os.environ.get('STUDY_OPTUNA_STORAGE'), "
        "Path('/proc/self/cmdline').read_text(), os.getpid()]))"
    )
    arguments = ["run", "smoke", "--optuna-storage", URL, "--trials", "3"]
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    out, _ = child.communicate(timeout=30)
    left, address, command_line, process = json.loads(out)
    assert left == ["run", "smoke", "--trials", "3"]
    assert address == URL
    assert "geheim" not in command_line
    assert process == child.pid
