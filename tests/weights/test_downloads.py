"""Checkpoints by address: cached by the whole address, whole or not at all, in one sentence."""

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from weights import servers

from mmvitconv import resources
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.weights import downloads, load_file, transfer
from mmvitconv.weights.addresses import address_of, find_place, title_of
from mmvitconv.weights.downloads import cached_file, fetch


def checkpoint(value: float = 1.0, size: int = 3, safetensors: bool = False) -> bytes:
    if safetensors:
        from safetensors.torch import save

        return save({"a": torch.full((size,), value)})
    file = io.BytesIO()
    torch.save({"a": torch.full((size,), value)}, file)
    return file.getvalue()


@pytest.fixture
def server():
    with servers.serve() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, no mirror, no proxy, and no patience."""
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMVITCONV_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    return tmp_path / "home"


@pytest.fixture
def impatient(monkeypatch):
    for name, value in {"TIMEOUT": 0.2, "WINDOW": 0.2, "ATTEMPTS": 2}.items():
        monkeypatch.setattr(transfer, name, value)


def refusal(address: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(address)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("given", "address", "title"),
    [
        ("runs/best.pth", "", "best.pth"),
        ("~/best.pth", "", "best.pth"),
        ("C:/best.pth", "", "best.pth"),
        ("mmvitconv://fcvit_s12", "mmvitconv://fcvit_s12", "mmvitconv://fcvit_s12"),
        (Path("mmvitconv://fcvit_s12"), "mmvitconv://fcvit_s12", "mmvitconv://fcvit_s12"),
        ("timm://a.b", "timm://a.b", "timm://a.b"),
        ("HTTPS://h/~me/b%20c.pth?d=1", "https://h/~me/b%20c.pth?d=1", "b c.pth"),
        (Path("https://h/a/b.pth"), "https://h/a/b.pth", "b.pth"),
        ("http://h/", "http://h/", "http://h/"),
        ("s3://bucket/a.pth", "s3://bucket/a.pth", "s3://bucket/a.pth"),
    ],
)
def test_addresses_and_titles(given, address, title):
    assert address_of(given) == address
    assert title_of(given) == title


def test_whole_addresses_are_cached_not_file_names(server):
    for folder, value in (("a", 1.0), ("b", 2.0), ("c?x=1", 3.0), ("c?x=2", 4.0)):
        path = f"/{folder}" if "?" in folder else f"/{folder}/x.pth"
        server.files[path] = checkpoint(value)
        assert load_file(server.url + path)["a"][0] == value
    asked = len(server.requests)
    assert load_file(f"{server.url}/a/x.pth")["a"][0] == 1
    assert load_file(Path(f"{server.url}/b/x.pth"))["a"][0] == 2
    assert len(server.requests) == asked == 4


def test_what_is_written_beside_a_file(server, home):
    server.files["/x.pth"] = content = checkpoint()
    file = fetch(f"{server.url}/x.pth")
    record = json.loads(file.with_name("x.pth.json").read_text())
    assert record["address"] == f"{server.url}/x.pth"
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["size"] == len(content)
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", "x.pth", "x.pth.json"]
    assert file.parent.parent == home


@pytest.mark.parametrize("name", ["..%2f..%2fevil.pth", "%2e%2e", "a%00b.pth", "x" * 300, ""])
def test_names_of_files_stay_in_their_folder(server, home, name):
    server.files[f"/{name}"] = checkpoint()
    file = fetch(f"{server.url}/{name}")
    assert file.parent.parent == home
    assert load_file(f"{server.url}/{name}")["a"].tolist() == [1, 1, 1]


def test_addresses_with_letters_of_any_kind(server):
    server.files["/gewichte/%C3%A4%20b.pth"] = checkpoint(3)
    assert load_file(f"{server.url}/gewichte/ä b.pth")["a"][0] == 3
    assert load_file(f"{server.url}/gewichte/%C3%A4%20b.pth")["a"][0] == 3


def test_safetensors(server):
    server.files["/x.safetensors"] = checkpoint(safetensors=True)
    assert load_file(f"{server.url}/x.safetensors")["state_dict"]["a"].tolist() == [1, 1, 1]


class TestMirror:
    """``MMVITCONV_MIRROR/NAME/FILE`` answers for whatever the index has."""

    FILE = "/fcvit_s12/fcvt_b12.pth.tar"

    @pytest.fixture(autouse=True)
    def _mirror(self, server, monkeypatch):
        monkeypatch.setenv("MMVITCONV_MIRROR", f"{server.url}/")
        server.files[self.FILE] = checkpoint()

    @pytest.mark.parametrize(
        "address",
        [
            "mmvitconv://fcvit_s12",
            "mmvitconv://fcvit_s12_imagenet",
            "https://drive.google.com/drive/folders/1QuyalIGhJeD2pxcVxR0_gJNrk2mZ8WEb?usp=sharing",
        ],
    )
    def test_names(self, server, home, address):
        assert load_file(address)["a"].tolist() == [1, 1, 1]
        assert fetch(address) == home / "fcvit_s12" / "fcvt_b12.pth.tar"
        assert server.requests == [(self.FILE, "")]

    def test_other_sources_of_a_name(self, server, home):
        server.files["/convmixer_768_32/model.safetensors"] = checkpoint(safetensors=True)
        assert fetch("mmvitconv://convmixer_768_32").name == "model.safetensors"
        assert [path for path, _ in server.requests] == [
            "/convmixer_768_32/convmixer_768_32_ks7_p7_relu.pth.tar",
            "/convmixer_768_32/model.safetensors",
        ]

    @pytest.mark.parametrize(
        ("address", "path"),
        [
            ("https://host.org/a/b.pth", "/host.org/a/b.pth"),
            ("https://host.org/b.pth?v=2", "/host.org/b.pth%3Fv%3D2"),
            ("timm://resnet18.a1_in1k", "/timm/resnet18.a1_in1k/model.safetensors"),
            ("https://drive.google.com/file/d/abc-1/view", "/drive.google.com/abc-1"),
            ("https://drive.google.com/uc?id=abc-1", "/drive.google.com/abc-1"),
        ],
    )
    def test_what_is_not_in_the_index(self, server, address, path):
        is_safetensors = path.endswith(".safetensors")
        server.files[path] = checkpoint(safetensors=is_safetensors)
        content = load_file(address)
        assert content.get("state_dict", content)["a"].tolist() == [1, 1, 1]

    def test_what_it_lacks(self, server, home):
        message = refusal("mmvitconv://fcvit_s24")
        assert f"{server.url}/fcvit_s24/fcvit_b24.pth.tar is refused with 404" in message
        assert f"MMVITCONV_MIRROR={server.url}" in message
        assert f"put fcvit_b24.pth.tar into {home}/fcvit_s24" in message

    def test_published_hash(self, server):
        path = "/deit_tiny/deit_tiny_patch16_224-a1311bcf.pth"
        server.files[path] = checkpoint()
        message = refusal("mmvitconv://deit_tiny")
        assert "damaged or another file: its sha256 begins with" in message
        assert "a1311bcf" in message
        assert not list(find_place("mmvitconv://deit_tiny").folder.glob("*.pth*"))

    def test_hash_of_the_first_download(self, server):
        file = fetch("mmvitconv://fcvit_s12")
        file.unlink()
        server.files[self.FILE] = checkpoint(2)
        message = refusal("mmvitconv://fcvit_s12")
        assert "has changed" in message
        assert f"to accept it, delete {file}.json" in message
        assert not file.exists()
        file.with_name(f"{file.name}.json").unlink()
        assert load_file("mmvitconv://fcvit_s12")["a"].tolist() == [2, 2, 2]

    def test_it_is_an_http_address(self, monkeypatch):
        monkeypatch.setenv("MMVITCONV_MIRROR", "file:///tmp")
        assert "MMVITCONV_MIRROR must be an http address" in refusal("mmvitconv://fcvit_s12")


def test_unknown_names():
    with pytest.raises(UserError, match="no published weights 'fcvit_s13'; did you mean fcvit_s12"):
        load_file("mmvitconv://fcvit_s13")
    with pytest.raises(CheckpointError, match=r"'s3://a/b\.pth' is no address that checkpoints"):
        load_file("s3://a/b.pth")
    with pytest.raises(CheckpointError, match="is a link only"):
        load_file("mmvitconv://dwnet_tiny")


@pytest.mark.parametrize("address", ["http://[::1/x", "http:///x.pth", "https://h:port/x.pth"])
def test_addresses_that_are_none(address):
    assert address in refusal(address)


def test_files_from_a_browser(home, monkeypatch):
    """Found by name; where nobody knows the name, by being the only one."""
    monkeypatch.setattr(downloads, "_fetch_first", None)
    (home / "fcvit_s12").mkdir(parents=True)
    (home / "fcvit_s12" / "fcvt_b12.pth.tar").write_bytes(checkpoint(2))
    assert load_file("mmvitconv://fcvit_s12")["a"][0] == 2
    record = home / "fcvit_s12" / "fcvt_b12.pth.tar.json"
    assert "drive.google.com" in json.loads(record.read_text())["address"]
    (home / "fcvit_s48").mkdir()
    (home / "fcvit_s48" / "model_best.pth.tar").write_bytes(checkpoint(3))
    assert load_file("mmvitconv://fcvit_s48")["a"][0] == 3
    (home / "fcvit_s48" / "another.pth").write_bytes(checkpoint(3))
    assert "another.pth, model_best.pth.tar; leave one" in refusal("mmvitconv://fcvit_s48")


def test_three_files_of_one_name(home):
    """ParC-Net's files have the same name, so each has the folder of its own name."""
    for value, name in enumerate(
        ("parcnet_s", "parcnet_s_ssdlite_coco", "parcnet_s_deeplabv3_voc")
    ):
        (home / name).mkdir(parents=True)
        (home / name / "checkpoint_ema_avg.pt").write_bytes(checkpoint(value))
        assert load_file(f"mmvitconv://{name}")["a"][0] == value


def test_a_cached_file_that_changes(server):
    server.files["/x.pth"] = checkpoint()
    file = fetch(f"{server.url}/x.pth")
    os.utime(file)  # copied, the same content
    assert fetch(f"{server.url}/x.pth") == file
    content = file.read_bytes()
    for other, reason in ((content[:-5], "is cut off"), (checkpoint(2), "has changed")):
        file.write_bytes(other)
        message = refusal(f"{server.url}/x.pth")
        assert f"{str(file)!r} {reason}" in message
        assert "delete it, and it is fetched again" in message
    file.unlink()
    assert load_file(f"{server.url}/x.pth")["a"].tolist() == [1, 1, 1]


def test_a_web_page_from_a_browser_is_not_remembered(home):
    (home / "fcvit_s12").mkdir(parents=True)
    file = home / "fcvit_s12" / "fcvt_b12.pth.tar"
    file.write_text("<html><title>Sign in</title>")
    assert "is a web page, 'Sign in'; delete it" in refusal("mmvitconv://fcvit_s12")
    file.write_bytes(checkpoint(2))
    assert load_file("mmvitconv://fcvit_s12")["a"][0] == 2


BIG = checkpoint(size=40_000)


class TestServers:
    """Broken, truncated, slow, dying and hostile."""

    def test_a_dying_one_is_continued(self, server):
        server.answers["/x.pth"] = servers.dying(BIG, 60_000, times=2)
        assert fetch(f"{server.url}/x.pth").read_bytes() == BIG
        assert [wanted for _, wanted in server.requests] == ["", "bytes=60000-", "bytes=120000-"]

    def test_one_that_dies_for_ever(self, server, home):
        server.answers["/x.pth"] = servers.dying(BIG, 10)
        message = refusal(f"{server.url}/x.pth")
        assert "stops answering (the connection ended after 50 of" in message
        assert len(server.requests) == transfer.ATTEMPTS
        server.files["/x.pth"] = BIG  # what is there is continued by the next run
        del server.answers["/x.pth"]
        assert fetch(f"{server.url}/x.pth").read_bytes() == BIG
        assert server.requests[-1][1] == "bytes=50-"

    def test_a_file_that_changes_meanwhile(self, server):
        server.answers["/x.pth"] = servers.dying(BIG, 100)
        refusal(f"{server.url}/x.pth")
        del server.answers["/x.pth"]
        server.files["/x.pth"] = other = checkpoint(2, size=50_000)
        assert fetch(f"{server.url}/x.pth").read_bytes() == other

    def test_one_that_continues_another_file(self, server):
        def answer(handler):
            handler.send_part(
                *((BIG, '"x"', 60_000) if len(server.requests) == 1 else (other, '"x"'))
            )

        other = checkpoint(2, size=50_000)
        server.answers["/x.pth"] = answer
        assert fetch(f"{server.url}/x.pth").read_bytes() == other
        assert [wanted for _, wanted in server.requests] == ["", "bytes=60000-", ""]

    @pytest.mark.parametrize("is_good_later", [True, False])
    def test_pieces_that_do_not_belong_together(self, server, is_good_later):
        """Found by the hash; then the file is fetched once more, from its beginning."""
        server.files["/x.pth"] = content = checkpoint(2, size=40_000)
        fetch(f"{server.url}/x.pth").unlink()
        answers = iter([(BIG, '"x"', 60_000)] + [(content, '"x"')] * 2 * is_good_later)

        def answer(handler):
            handler.send_part(*next(answers, (BIG, '"x"')))

        server.answers["/x.pth"] = answer
        if is_good_later:
            assert fetch(f"{server.url}/x.pth").read_bytes() == content
        else:
            assert "has changed" in refusal(f"{server.url}/x.pth")
        assert [wanted for _, wanted in server.requests] == ["", "", "bytes=60000-", ""]

    def test_one_without_ranges(self, server):
        content, first = BIG, []

        def answer(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content if first else content[:1000])
            first.append(1)

        server.answers["/x.pth"] = answer
        assert fetch(f"{server.url}/x.pth").read_bytes() == content
        assert server.requests == [("/x.pth", ""), ("/x.pth", "")]

    @pytest.mark.parametrize("code", [429, 500, 503])
    def test_errors_that_pass(self, server, code):
        server.answers["/x.pth"] = servers.failing(code, checkpoint(), times=2)
        assert fetch(f"{server.url}/x.pth").is_file()

    @pytest.mark.parametrize("code", [401, 403, 404, 410])
    def test_errors_that_stay(self, server, code):
        server.answers["/x.pth"] = servers.failing(code)
        assert f"is refused with {code}" in refusal(f"{server.url}/x.pth")
        assert len(server.requests) == 1

    def test_redirects(self, server):
        server.files["/y.pth"] = checkpoint()
        server.answers["/x.pth"] = servers.redirecting(f"{server.url}/y.pth")
        assert fetch(f"{server.url}/x.pth").name == "x.pth"
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
            server.answers["/z.pth"] = servers.redirecting(target)
            assert target in refusal(f"{server.url}/z.pth")
        server.answers["/l.pth"] = servers.redirecting(f"{server.url}/l.pth")
        assert "is refused with 302" in refusal(f"{server.url}/l.pth")

    def test_no_redirect_from_https_to_http(self):
        request = transfer.Request("https://127.0.0.1/x")
        with pytest.raises(transfer.TransferError, match="is not followed"):
            transfer._Redirects().redirect_request(
                request, None, 302, "Found", {}, "http://127.0.0.1/y"
            )

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is empty"),
            (
                b"\n <!DOCTYPE html><title>Quota \n exceeded</title>",
                "is a web page, 'Quota exceeded'",
            ),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git LFS"),
            (checkpoint()[:-30], "is cut off: a zip archive without its end"),
            (b"hello", "is no checkpoint"),
            (checkpoint(safetensors=True)[:40], "is no checkpoint"),
        ],
    )
    def test_answers_that_are_no_checkpoint(self, server, content, reason):
        server.files["/x.pth"] = content
        assert f"gives a file that {reason}" in refusal(f"{server.url}/x.pth")
        server.files["/x.pth"] = checkpoint()  # nothing of the first answer is kept or remembered
        assert load_file(f"{server.url}/x.pth")["a"].tolist() == [1, 1, 1]

    def test_more_than_expected(self, server, monkeypatch):
        monkeypatch.setattr(downloads, "LARGEST", 1_000_000)
        server.answers = {"/x.pth": servers.endless, "/y.pth": servers.boasting}
        message = refusal(f"{server.url}/x.pth")
        assert "sends more than 1 MB" in message
        assert "MB, more than the 1 expected" in refusal(f"{server.url}/y.pth")
        assert not list(find_place(f"{server.url}/x.pth").folder.glob("*.p*"))

    def test_more_than_the_disk_has(self, server, monkeypatch):
        monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        server.files["/x.pth"] = checkpoint()
        assert "but the disk of" in refusal(f"{server.url}/x.pth")

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (servers.silent, r"stops answering \(nothing within 0 s\)"),
            (servers.stalling, r"stops answering \(\d bytes in 0 s\)"),
            (servers.dripping, r"cannot be reached \(nothing within 0 s\)"),
        ],
    )
    def test_slow_ones(self, server, impatient, answer, reason):
        server.answers["/x.pth"] = answer
        assert re.search(reason, refusal(f"{server.url}/x.pth"))

    def test_compressed_answers(self, server):
        def answer(handler):
            handler.send_response(200)
            handler.send_header("Content-Encoding", "gzip")
            handler.end_headers()

        server.answers["/x.pth"] = answer
        assert "is sent compressed" in refusal(f"{server.url}/x.pth")

    def test_an_answer_that_is_no_http(self, server):
        server.answers["/x.pth"] = lambda handler: handler.wfile.write(b"hello\n")
        assert "stops answering" in refusal(f"{server.url}/x.pth")

    def test_proxies(self, server, monkeypatch):
        monkeypatch.setenv("http_proxy", server.url)
        server.files["http://far.away/x.pth"] = checkpoint()
        assert fetch("http://far.away/x.pth").is_file()


def test_offline(home, monkeypatch):
    """The sentence names the address, the file and the folder where a browser's file is found."""
    with servers.serve() as server:
        address = f"{server.url}/x.pth"  # nobody listens there any more
    message = refusal(address)
    assert f"{address} cannot be reached (Connection refused)" in message
    assert f"fetch {address} with a browser and put x.pth into {home}/" in message
    monkeypatch.setitem(sys.modules, "gdown", None)
    message = refusal("mmvitconv://fcvit_s12")
    assert "needs the package gdown" in message
    assert "'mmvitconv weights get fcvit_s12'" in message
    folder = f"{home}/fcvit_s12"
    assert f"mZ8WEb with a browser and put fcvt_b12.pth.tar into {folder}" in message


def fetch_in_process(address: str, environment: dict, results) -> None:
    os.environ.update(environment)
    transfer.PAUSE = 0.001
    try:
        results.put(str(fetch(address)))
    except CheckpointError as error:
        results.put(str(error))


@pytest.mark.parametrize("works", [True, False])
def test_one_of_four_processes_downloads(server, works):
    def slow(handler):
        time.sleep(1)
        handler.send_part(BIG) if works else handler.send_error(404)

    server.answers["/x.pth"] = slow
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (f"{server.url}/x.pth", dict(os.environ), results)
    processes = [context.Process(target=fetch_in_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(outcomes) == 1  # the failure is told to all, and tried once
    assert len(server.requests) == 1


def test_the_lock_of_a_process_that_died_is_free(server):
    server.answers["/x.pth"] = lambda _: time.sleep(60)
    context = multiprocessing.get_context("fork")
    arguments = (f"{server.url}/x.pth", dict(os.environ), context.Queue())
    process = context.Process(target=fetch_in_process, args=arguments)
    process.start()
    while not server.requests:
        time.sleep(0.01)
    process.kill()
    process.join(60)
    server.answers["/x.pth"] = servers.dying(BIG, 0, times=0)
    assert fetch(f"{server.url}/x.pth").read_bytes() == BIG


def test_a_cache_that_cannot_be_written(server, monkeypatch):
    """What is there is found and nothing is written; what is not is one sentence."""
    folder = Path(tempfile.mkdtemp())
    monkeypatch.setenv("MMVITCONV_HOME", str(folder))
    server.files |= {"/x.pth": checkpoint(), "/y.pth": checkpoint()}
    file = fetch(f"{server.url}/x.pth")
    file.with_name("x.pth.json").unlink()  # as somebody else has copied it
    before = sorted(folder.rglob("*"))
    for path in (folder, *before):
        path.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        assert fetch(f"{server.url}/x.pth") == file
        message = refusal(f"{server.url}/y.pth")
    finally:
        if is_root:
            os.seteuid(0)
    assert f"cache folder '{folder}/" in message
    assert "cannot be written (Permission denied); set MMVITCONV_HOME" in message
    assert sorted(folder.rglob("*")) == before
    for path in (folder, *before):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_home_that_is_a_file(tmp_path, monkeypatch, server):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "file"))
    assert "cannot be written (Not a directory)" in refusal(f"{server.url}/x.pth")


def test_a_full_disk(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_copy", full)
    server.files["/x.pth"] = checkpoint()
    message = refusal(f"{server.url}/x.pth")
    assert "cannot be written into" in message
    assert "No space left on device" in message
    assert not list(find_place(f"{server.url}/x.pth").folder.glob("*.p*"))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MMVITCONV_HOME": "/a"}, "/a"),
        ({"MMVITCONV_HOME": "", "XDG_CACHE_HOME": "/b"}, "/b/mmvitconv"),
        ({"MMVITCONV_HOME": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/mmvitconv"),
        ({"MMVITCONV_HOME": "~/w", "HOME": "/d"}, "/d/w"),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(resources.cache_home()) == expected


class TestDrive:
    """Files and folders of Google Drive, by a stand-in for gdown with its signatures."""

    @pytest.fixture
    def drive(self, monkeypatch):
        files = {}

        def download(url=None, output=None, quiet=False, *, id=None, resume=False, timeout=None,
                     retries=0):  # fmt: skip
            Path(output).write_bytes(files[id])
            return output

        def download_folder(url=None, id=None, output=None, quiet=False, *, skip_download=False,
                            timeout=None):  # fmt: skip
            assert skip_download
            return [SimpleNamespace(id=key, path=key) for key in files]

        module = SimpleNamespace(download=download, download_folder=download_folder)
        monkeypatch.setitem(sys.modules, "gdown", module)
        return files

    @pytest.mark.parametrize(
        "address",
        [
            "https://drive.google.com/file/d/A-b_1/view?usp=sharing",
            "https://drive.google.com/uc?id=A-b_1&export=download",
            "https://drive.google.com/open?id=A-b_1",
            "https://drive.usercontent.google.com/download?id=A-b_1&confirm=t",
        ],
    )
    def test_a_file(self, drive, address):
        drive["A-b_1"] = checkpoint(4)
        assert load_file(address)["a"][0] == 4

    def test_a_folder_by_the_name_of_its_file(self, drive):
        drive |= {"log.txt": b"", "fcvt_b12.pth.tar": checkpoint(5), "last.pth.tar": checkpoint(6)}
        assert load_file("mmvitconv://fcvit_s12")["a"][0] == 5

    def test_a_folder_with_one_checkpoint(self, drive):
        drive |= {"args.yaml": b"", "model_best.pth.tar": checkpoint(5)}
        assert load_file("mmvitconv://fcvit_tiny")["a"][0] == 5

    def test_a_folder_with_several(self, drive):
        drive |= {"a.pth": checkpoint(5), "b.pth": checkpoint(5)}
        assert "holds 2 checkpoints where one is needed (a.pth, b.pth)" in refusal(
            "mmvitconv://fcvit_tiny"
        )

    def test_its_errors_and_pages(self, drive):
        drive["A"] = b"<html><title>Google Drive - Quota exceeded</title>"
        address = "https://drive.google.com/file/d/A/view"
        assert "is a web page, 'Google Drive - Quota exceeded'" in refusal(address)
        drive.clear()
        assert "is not given by Google Drive" in refusal(address)


class TestTimm:
    """``timm://MODEL`` through timm's list and Hugging Face's cache."""

    @pytest.fixture(autouse=True)
    def _hub(self, server, monkeypatch):
        import huggingface_hub as hub

        monkeypatch.setattr(hub, "hf_hub_url", lambda *names: "/".join([server.url, *names]))
        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
        server.files["/timm/resnet18.a1_in1k/model.safetensors"] = b"x"

    def test_a_model(self, tmp_path, monkeypatch):
        import huggingface_hub

        asked = []

        def hub(repository, file):
            asked.append((repository, file))
            (tmp_path / "blob.safetensors").write_bytes(checkpoint(7, safetensors=True))
            return str(tmp_path / "blob.safetensors")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
        for _ in range(2):
            assert load_file("timm://resnet18.a1_in1k")["state_dict"]["a"][0] == 7
        assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]

    def test_unknown_ones(self):
        message = refusal("timm://resnet18.a1_in1j")
        assert "no model of timm with published weights; did you mean resnet18.a1_in1k" in message

    def test_errors_of_the_hub(self, monkeypatch):
        import huggingface_hub

        def hub(*_):
            raise RuntimeError("Repository\nnot found")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
        message = refusal("timm://resnet18.a1_in1k")
        assert "is not given by the hub (Repository not found)" in message

    def test_what_the_hub_lacks(self, server):
        server.files.clear()
        message = refusal("timm://resnet18.a1_in1k")
        assert "has none of model.safetensors, pytorch_model.bin on the hub" in message
        assert "fetch https://huggingface.co/timm/resnet18.a1_in1k with a browser" in message

    def test_without_network_it_is_said_at_once(self, server):
        server.shutdown()
        server.server_close()
        assert "cannot be reached (Connection refused)" in refusal("timm://resnet18.a1_in1k")


def test_nothing_is_found_where_nothing_is():
    assert cached_file(find_place("mmvitconv://fcvit_s12")) is None
