"""Secrets in URIs: every form is refused without being repeated, and similar names are accepted."""

from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.cluster.connection import FORWARDED_VARIABLES, connect
from jobs.cluster.settings import use_endpoint
from jobs.command_line.parsing import refuse_passwords
from jobs.train import main as train
from pipeline.inputs.shards import list_shards
from pipeline.storage.uris import require_no_password

SECRET = "hush-hush"
URIS_WITH_LOGIN = [
    f"ftp://me:{SECRET}@host/a.tar",
    f"s3://AKIA:{SECRET}@bucket/a.tar",
    f"s3://AKIA:x/{SECRET}@bucket/a.tar",
    f"s3://AKIA:12/{SECRET}@bucket/a.tar",
    f"s3://AKIA:{SECRET}@x/y@bucket/a.tar",
    f"s3://AKIA:{SECRET}?x@bucket/a.tar",
    f"simplecache::s3://AKIA:{SECRET}@bucket/a.tar",
    f"tar://a.tar::simplecache::s3://AKIA:x/{SECRET}@bucket/b.tar",
    f"https://{SECRET}@host/a.tar",
    f"HTTPS://{SECRET}@host/a.tar",
    f"http://me:{SECRET}@host:9000",
    f"https://me@host/a.tar?x={SECRET}@y",
]
URIS_WITH_SIGNATURE = [
    f"https://bucket.s3.amazonaws.com/a.tar?X-Amz-Algorithm=AWS4&X-Amz-Signature={SECRET}",
    f"https://bucket.s3.amazonaws.com/a.tar?AWSAccessKeyId=AKIA&Signature={SECRET}&Expires=1",
    f"https://storage.googleapis.com/bucket/a.tar?X-Goog-Signature={SECRET}",
    f"https://account.blob.core.windows.net/container/a.tar?sv=2022&sig={SECRET}",
    f"simplecache::https://host/a.tar?token={SECRET}@x",
]
PLAIN_URIS = [
    "s3://bucket/user@host/x.tar",
    "s3://bucket/a:b@c.tar",
    "s3://bucket/photo-?.tar",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/photos/user@host/x.tar",
    "abfs://container@account.dfs.core.windows.net/a:b@c.tar",
    "sftp://user@host:22/a@b.tar",
    "simplecache::s3://bucket/user@host/x.tar",
    "http://localhost:9000/user@host/x.tar",
    "http://[::1]:9000/user@host/x.tar",
    "https://host/a.tar?versionId=3&part=signature",
    "memory://a:b/c@d.tar",
    "file:///data/a:b@c/x?sigma.tar",
    "/data/a:b@c/x?sig=1.tar",
    "a:b@c.tar",
]


@pytest.mark.parametrize("uri", URIS_WITH_LOGIN)
def test_password_or_token_before_a_host_is_refused_and_not_repeated(uri: Any) -> None:
    with pytest.raises(ValueError, match=r"://\.\.\..*' holds a password") as refusal:
        require_no_password(uri)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("uri", URIS_WITH_SIGNATURE)
def test_signed_address_is_refused_and_its_signature_not_repeated(uri: Any) -> None:
    with pytest.raises(ValueError, match=r"/a\.tar\?\.\.\.' holds a signature") as refusal:
        require_no_password(uri)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("uri", PLAIN_URIS)
def test_at_signs_and_colons_in_names_are_not_passwords(uri: Any) -> None:
    require_no_password(uri)


def test_shard_with_an_at_sign_and_a_colon_in_its_path_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a:b@c" / "user@host.tar"
    path.parent.mkdir()
    path.write_bytes(bytes(1024))
    assert [shard.uri for shard in list_shards([str(path)])] == [str(path)]


@pytest.mark.parametrize("words", [("--out", "s3://A:hush-hush@b"), ("--out=s3://A:hush-hush@b",)])
def test_command_line_is_searched_for_passwords_word_by_word(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="holds a password"):
        refuse_passwords(["--recipe", "v2", *words])


@pytest.mark.parametrize(
    "words",
    [
        ("--shards", "s3://AKIA:hush-hush@bucket/a.tar"),
        ("--shards", "a.tar", "--val-shards=s3://AKIA:x/hush-hush@bucket/a.tar"),
        ("--endpoint-url", "https://hush-hush@host"),
        ("--no-such-flag=s3://AKIA:hush-hush@bucket",),
    ],
)
def test_training_refuses_passwords_before_anything_else(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert train(["--recipe", "v2", "--vocabulary", "v.json", "--out", "o", *words]) == 2
    printed = "".join(capsys.readouterr())
    assert "holds a password" in printed
    assert SECRET not in printed


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@host", f"https://{SECRET}@host", f"me:{SECRET}@host:9000"])
def test_endpoint_with_a_password_is_refused_and_left_out_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://before")
    with pytest.raises(ValueError, match="host") as refusal:
        use_endpoint(url)
    assert SECRET not in str(refusal.value)
    use_endpoint(None)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_endpoint_of_the_environment_with_a_password_is_not_sent_to_a_cluster(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in FORWARDED_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, f"http://me:{SECRET}@host")
    # A connection attempt without a cluster takes minutes, and would come first without the check.
    monkeypatch.setattr(ray, "init", lambda **arguments: pytest.fail(f"sent {arguments['runtime_env']}"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=rf"{name}: 'http://\.\.\.@host' holds a password") as refusal:
        connect("127.0.0.1:1")
    assert SECRET not in str(refusal.value)
