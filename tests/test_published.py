"""Published models by name, against a server that stands in for the Hub, with tiny checkpoints under their names."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from authors_hub import NAME, NOWHERE, SMALL, authors_hub, cut_off, published_file
from hub_server import COMMIT, hub_server
from huggingface_hub import constants
from reference import REFERENCE, load_recipe, tiny_fields

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamModel,
    EfficientTamProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    checkpoints,
    hub_files,
    named_checkpoint,
    published,
)
from efficienttam_hf.app.loading import choose_model, find_model, load_config
from efficienttam_hf.benchmark.contenders import load_ours, our_config
from efficienttam_hf.checksums import verify_folder
from efficienttam_hf.cli import main
from efficienttam_hf.configuration_efficienttam import PRESETS
from efficienttam_hf.evaluation.paper_tables import rows_for
from efficienttam_hf.published import PUBLISHED_FILES, PUBLISHED_REPOSITORY, VARIANTS, FetchError
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.training.config import ConfigError
from efficienttam_hf.training.models import load_model, load_model_config


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientTamVideoModel(EfficientTamConfig(**tiny_fields())).eval()


@pytest.fixture(scope="module")
def checkpoint(model) -> bytes:
    """A file of the published kind with the tiny model in it."""
    return published_file(model)


@pytest.fixture
def hub(monkeypatch, tmp_path, checkpoint):
    """The authors' repository with tiny models, an empty cache, and presets that have their shape."""
    with authors_hub(monkeypatch, tmp_path, checkpoint) as server:
        yield server


def left_over(hub) -> list[str]:
    """Files of the cache that are neither whole, nor locks and the like."""
    found = [path for path in hub.cache.rglob("*") if path.is_file() and ".locks" not in path.parts]
    return [str(path) for path in found if path.suffix == ".incomplete" or "/.efficienttam_" in str(path)]


def same_weights(one, other) -> bool:
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())


# ------------------------------------------------------------------------------------------------- what is told


def test_what_is_told_of_variants_is_what_they_are():
    assert list(VARIANTS) == sorted(PRESETS, key=list(VARIANTS).index) and set(VARIANTS) == set(PRESETS)
    methods = {row.method for row in rows_for(1)}
    for name, variant in VARIANTS.items():
        config = EfficientTamConfig.from_preset(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in EfficientTamVideoModel(config).parameters())
        assert (variant.name, variant.parameters, variant.image_size) == (name, parameters, config.image_size)
        assert variant.paper_name is None or variant.paper_name in methods


# --------------------------------------------------------------------------------------------- by name, everywhere


def test_a_name_is_fetched_once_and_found_ever_after(hub, model, monkeypatch):
    loaded = EfficientTamVideoModel.from_pretrained(NAME)
    assert same_weights(loaded, model)
    assert hub.count(r"GET /storage/") == 1
    cut_off(monkeypatch)
    hub.requests.clear()
    assert same_weights(
        EfficientTamModel.from_pretrained(NAME), EfficientTamModel.from_pretrained(find_model(NAME).location)
    )
    assert EfficientTamConfig.from_pretrained(NAME).image_size == 128
    assert load_config(NAME).image_size == 128
    for kind in (EfficientTamProcessor, EfficientTamVideoProcessor):
        assert kind.from_pretrained(NAME).image_processor.size["height"] == 128
    assert hub.requests == []


def test_revision_and_hash_are_written_beside_it(hub, checkpoint):
    folder = published.fetch(NAME)
    sha = hub.repositories[PUBLISHED_REPOSITORY][PUBLISHED_FILES.of(NAME)][1]
    assert json.loads((folder / "source.json").read_text()) == {
        "repository": PUBLISHED_REPOSITORY,
        "file": f"{NAME}.pt",
        "revision": COMMIT,
        "sha256": sha,
    }
    assert verify_folder(folder) > 3
    assert main(["verify", NAME]) == 0
    assert Path(os.path.commonpath([folder, hub.cache])) == hub.cache and not left_over(hub)


def test_a_folder_of_that_name_comes_first(hub, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(NAME)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    assert find_model(NAME).description == f"the one in the folder '{NAME}'"
    assert hub.requests == []


def test_another_cache_may_be_given(hub, tmp_path):
    EfficientTamVideoModel.from_pretrained(NAME, cache_dir=tmp_path / "mine")
    assert published.found(NAME) is None and published.found(NAME, tmp_path / "mine")
    with pytest.raises(OSError, match="only local files"):
        EfficientTamVideoModel.from_pretrained(SMALL, local_files_only=True)


OLD = "ab" * 20


@pytest.fixture
def old_model(hub):
    """Other weights, which revision `v1` of the authors' repository has."""
    torch.manual_seed(1)
    model = EfficientTamVideoModel(EfficientTamConfig(**tiny_fields())).eval()
    hub.add_revision(PUBLISHED_REPOSITORY, "v1", OLD, PUBLISHED_FILES.of(NAME), published_file(model))
    return model


def test_auto_classes_take_the_folder_of_a_name(hub, model):
    from transformers import AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor

    folder = named_checkpoint(NAME)
    assert same_weights(AutoModel.from_pretrained(folder), model)
    names = [type(auto.from_pretrained(folder)).__name__ for auto in (AutoConfig, AutoProcessor, AutoVideoProcessor)]
    assert names == ["EfficientTamConfig", "EfficientTamVideoProcessor", "EfficientTamVideoVideoProcessor"]


@pytest.mark.slow
def test_a_revision_is_fetched_and_kept_beside_the_newest(hub, model, old_model, monkeypatch):
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, revision="v1"), old_model)
    assert published.found(NAME) is None, "what was asked for by revision is not what the name means"
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, revision="main"), model)
    assert EfficientTamConfig.from_pretrained(NAME, revision="v1").image_size == 128
    with pytest.raises(FetchError, match=r"has no efficienttam_ti_512x512.pt of .*\(404\)"):
        EfficientTamVideoModel.from_pretrained(NAME, revision="v7")
    cut_off(monkeypatch)
    for revision in (OLD, "v1"):  # a tag means what it meant when the Hub was last asked
        if revision == "v1":
            refs = hub.cache / f"models--{PUBLISHED_REPOSITORY.replace('/', '--')}" / "refs"
            refs.mkdir(exist_ok=True)
            (refs / "v1").write_text(OLD)
        assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, revision=revision), old_model)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, revision=COMMIT), model), "main's own commit"
    with pytest.raises(OSError, match="cannot be reached"):
        EfficientTamVideoModel.from_pretrained(NAME, revision="v2")
    with pytest.raises(OSError, match="The commit of revision 'v2' of .* is not in the cache"):
        EfficientTamVideoModel.from_pretrained(NAME, revision="v2", local_files_only=True)
    assert published.remove(NAME) > 0
    assert not list(published.folder_of(NAME).parent.iterdir())
    with pytest.raises(ValueError, match="efficienttam-nano comes with this package and has no revision 'v1'"):
        EfficientTamConfig.from_pretrained("efficienttam-nano", revision="v1")


@pytest.mark.slow
def test_a_download_can_be_forced(hub, model, old_model, monkeypatch):
    EfficientTamVideoModel.from_pretrained(NAME)
    hub.add_revision(PUBLISHED_REPOSITORY, "main", OLD, PUBLISHED_FILES.of(NAME), published_file(old_model))
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, force_download=True), old_model)
    hub.damaged = True
    with pytest.raises(FetchError, match="damaged"):
        EfficientTamVideoModel.from_pretrained(NAME, force_download=True)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), old_model), "what was here stays"
    cut_off(monkeypatch)
    with pytest.raises(FetchError, match="cannot be reached"):
        EfficientTamVideoModel.from_pretrained(NAME, force_download=True)
    with pytest.raises(FetchError, match="cannot be downloaded again .force_download., because only local files"):
        EfficientTamVideoModel.from_pretrained(NAME, force_download=True, local_files_only=True)


def test_a_token_may_be_given(hub, model):
    hub.private.add(PUBLISHED_REPOSITORY)
    with pytest.raises(FetchError, match="401"):
        EfficientTamVideoModel.from_pretrained(NAME)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME, token=hub.token), model)


def test_progress_is_told(hub, checkpoint):
    told = []
    published.fetch(NAME, progress=lambda here, total: told.append((here, total)))
    assert told[-1] == (len(checkpoint), len(checkpoint))
    assert [here for here, _ in told] == sorted(here for here, _ in told) and len(told) > 2


def test_a_name_where_exported_graphs_are_needed_says_what_to_do(hub):
    from efficienttam_hf.export.onnx_tracker import OnnxVideoTracker

    with pytest.raises(FileNotFoundError, match=f"`efficienttam export {NAME} FOLDER`"):
        OnnxVideoTracker(NAME)


def test_a_copy_of_the_code_without_the_package_takes_names_as_they_are(tmp_path):
    from efficienttam_hf.remote_code import copy_remote_code

    copy_remote_code(tmp_path / "code")
    (tmp_path / "code" / "__init__.py").touch()
    program = "from code_copy.remote_code import named_checkpoint; print(named_checkpoint('efficienttam_s'))"
    (tmp_path / "code").rename(tmp_path / "code_copy")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "efficienttam_s"


# ----------------------------------------------------------------------------------------------------- what goes wrong


def test_a_broken_download_is_resumed(hub, checkpoint, model):
    hub.break_offs = [2**18]
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    assert len(hub.resumed) == 1 and 0 < hub.resumed[0] <= 2**18 < len(checkpoint)


def test_other_bytes_than_the_hub_states_are_refused_and_not_kept(hub, model):
    hub.damaged = True
    with pytest.raises(
        FetchError, match=r"damaged on its way: its sha256 is [0-9a-f]{64}, and the Hub states [0-9a-f]{64}"
    ):
        published.fetch(NAME)
    assert published.found(NAME) is None
    hub.damaged = False
    assert same_weights(EfficientTamVideoModel.from_pretrained(published.fetch(NAME)), model)


def test_another_model_under_a_name_is_refused(hub):
    file = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(1)}}, file)
    hub.add(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(NAME), file.getvalue())
    with pytest.raises(
        FetchError, match=f"was downloaded correctly, but it is not a checkpoint of {NAME}: .* is not an"
    ):
        published.fetch(NAME)
    assert published.found(NAME) is None


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda hub: hub.repositories.clear(),
            r"has no .*, or does not show it \(401\): the token is missing or wrong",
        ),
        (lambda hub: hub.repositories[PUBLISHED_REPOSITORY].clear(), r"has no efficienttam_ti_512x512.pt of .*\(404\)"),
        (lambda hub: hub.private.add(PUBLISHED_REPOSITORY), r"\(401\): the token is missing or wrong"),
        (lambda hub: setattr(hub, "refuse", lambda request: 500), r"does not give .* \(status 500\)"),
        (lambda hub: setattr(hub, "refuse", lambda request: 401), r"401\)?.*: the token is missing or wrong"),
    ],
    ids=["no repository", "no file", "private", "broken", "refused"],
)
def test_what_the_hub_answers_is_said(hub, break_it, said, capsys):
    break_it(hub)
    with pytest.raises(FetchError, match=said):
        published.fetch(NAME)
    assert main(["segment", __file__, "--model", NAME, "--point", "1,1"]) == 2  # no traceback


def test_a_token_opens_a_private_repository(hub, model, monkeypatch):
    hub.private.add(PUBLISHED_REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)


def test_a_hub_that_does_not_answer_is_not_waited_for(hub, monkeypatch):
    hub.delay = 3
    began = time.monotonic()
    assert re.search("did not answer within|cannot be reached", published.answers(NAME, seconds=0.3))
    assert time.monotonic() - began < 2
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    with pytest.raises(FetchError, match="cannot be reached for .*Timeout"):
        published.fetch(NAME)


def test_no_connection_is_said(hub, monkeypatch):
    cut_off(monkeypatch)
    with pytest.raises(FetchError, match=f"{NOWHERE} cannot be reached for {NAME}.pt of {PUBLISHED_REPOSITORY}"):
        published.fetch(NAME)


def test_offline_takes_what_is_here_and_says_what_is_not(hub, monkeypatch, model):
    published.fetch(NAME)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    with pytest.raises(FetchError, match=f"{SMALL} is not in the cache .*HF_HUB_OFFLINE is set.*models fetch {SMALL}"):
        EfficientTamVideoModel.from_pretrained(SMALL)
    assert hub.requests == []


@pytest.mark.parametrize("how", ["offline", "cut off"])
def test_a_download_that_is_here_is_converted_without_network(how, hub, monkeypatch, model):
    hub_files.download(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(NAME))
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        cut_off(monkeypatch)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    assert published.source_of(published.found(NAME))["revision"] == COMMIT


def test_a_cache_that_cannot_be_written_is_said_and_read(hub, monkeypatch):
    import filelock

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    published.fetch(NAME)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert published.fetch(NAME)
    with pytest.raises(FetchError, match="cannot be written .Read-only file system.. Set HF_HOME or HF_HUB_CACHE"):
        published.fetch(SMALL)


def test_a_full_disk_leaves_nothing_half(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_checksums", full)
        with pytest.raises(FetchError, match="No space left on device. Make room there, or set HF_HOME"):
            published.fetch(NAME)
    assert published.found(NAME) is None and not left_over(hub)
    assert published.fetch(NAME)


# -------------------------------------------------------------------------------------------- several processes, kills


PROGRAM = """
import sys
from reference import tiny_fields
from efficienttam_hf.configuration_efficienttam import PRESETS
real = dict(PRESETS)
PRESETS["{name}"] = tiny_fields()
{before}
from efficienttam_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(hub, *arguments: str, before: str = "", **environment: str) -> subprocess.Popen:
    """A process of its own that runs a command line against the server."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(hub.cache),
        "HF_HUB_DISABLE_XET": "1",
        "EFFICIENTTAM_MODEL": "",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(name=NAME, before=before), *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_at_once_convert_once(hub, model):
    hub.delay = 1
    processes = [start(hub, "models", "fetch", NAME) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert str(published.folder_of(NAME)) in out
    assert hub.count("GET /storage/") == 1 and not left_over(hub)
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)


KILL = "import os, signal\nfrom efficienttam_hf import checkpoints\n"
KILL += "checkpoints.sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)"
REAL = "PRESETS.update(real)"
LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))"  # writing more fails


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills and limits of POSIX")
@pytest.mark.parametrize("when", ["while it is converted", "while it is fetched", "where there is no room"])
def test_however_it_ends_nothing_half_is_taken_for_a_model(when, hub, model):
    if when == "while it is fetched":
        hub.pace = 0.5
        process = start(hub, "models", "fetch", NAME)
        while not hub.count("GET /storage/"):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.communicate()
        hub.pace = 0
    else:
        process = start(hub, "models", "fetch", NAME, before=LIMIT if "room" in when else KILL)
        _, err = process.communicate(timeout=300)
        if "room" in when:
            assert process.returncode == 1 and "Make room there" in err
        else:
            assert process.returncode == -signal.SIGKILL
    assert published.found(NAME) is None
    assert same_weights(EfficientTamVideoModel.from_pretrained(NAME), model)
    folder = published.folder_of(NAME)
    assert [path.name for path in folder.parent.iterdir()] == [NAME]
    assert not left_over(hub), "nor is the part of a download that nobody will continue"
    assert verify_folder(folder)


# ---------------------------------------------------------------------------------------------------- the default


def test_the_default_is_the_authors_model_for_the_device(hub, monkeypatch):
    small, tiny = choose_model(None, GPU), choose_model(None, CPU)
    assert (small.name, tiny.name) == (SMALL, NAME)
    assert tiny.description.startswith(
        f"{NAME} of {PUBLISHED_REPOSITORY} (the default on a CPU; --model efficienttam-nano"
    )
    cut_off(monkeypatch)
    hub.requests.clear()
    assert choose_model(None, CPU) == tiny
    assert hub.requests == []


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("cut off", f"{NOWHERE} cannot be reached"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("gone", "has no "),
        ("damaged", "damaged on its way"),
    ],
)
def test_without_it_the_included_model_is_taken_and_why_is_said(state, why, hub, monkeypatch):
    if state == "cut off":
        cut_off(monkeypatch)
    elif state == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif state == "gone":
        hub.repositories.clear()
    hub.damaged = state == "damaged"
    chosen = choose_model(None, CPU)
    assert chosen.name == "efficienttam-nano"
    assert chosen.description.startswith("efficienttam-nano, a small one that comes with this package (")
    assert why in chosen.description and f"`efficienttam models fetch {NAME}` gets it" in chosen.description


def test_what_is_named_decides(hub, monkeypatch):
    monkeypatch.setenv("EFFICIENTTAM_MODEL", "efficienttam-nano")
    assert choose_model(None, CPU).name == "efficienttam-nano"
    assert choose_model(SMALL, CPU).name == SMALL
    assert hub.count(NAME) == 0
    cut_off(monkeypatch)
    with pytest.raises(FetchError, match="cannot be reached"):  # what was named is not replaced by another
        choose_model(NAME, CPU)


def test_unknown_names_say_what_there_is(hub):
    with pytest.raises(FileNotFoundError, match="did you mean efficienttam_s_1.*efficienttam-nano, efficienttam_s,"):
        find_model("eficienttam_s_1")
    with pytest.raises(FileNotFoundError, match="did you mean efficienttam-nano"):
        find_model("efficienttam_nano")
    assert hub.requests == []


# ------------------------------------------------------------------------------------------------- fresh weights


def test_fresh_weights_are_asked_for_by_the_preset(hub, model, caplog):
    config = load_model_config(f"preset:{NAME}", {"num_maskmem": 5})
    assert config.num_maskmem == 5
    assert not same_weights(load_model(f"preset:{NAME}", load_model_config(f"preset:{NAME}", {})), model)
    assert our_config(f"preset:{NAME}").image_size == 128
    assert hub.requests == []
    with caplog.at_level("INFO"):
        config = load_model_config(NAME, {})
    assert f"For fresh weights, as that name meant before, write `model: preset:{NAME}`" in caplog.text
    assert same_weights(load_model(NAME, config), model) and same_weights(load_ours(NAME), model)


def test_the_old_form_says_what_to_write(hub, monkeypatch):
    with pytest.raises(ConfigError, match=f"`model_overrides` are for presets.* write `model: preset:{NAME}`"):
        load_model_config(NAME, {"num_maskmem": 5})
    with pytest.raises(ConfigError, match="write `model: preset:efficienttam_nano`"):
        load_model_config("efficienttam_nano", {})
    with pytest.raises(ValueError, match="fresh weights, which only training.*the trained model is efficienttam_s"):
        find_model("preset:efficienttam_s")
    cut_off(monkeypatch)
    with pytest.raises(FetchError, match="For a preset with random weights, write preset:NAME"):
        load_ours(NAME)
    with pytest.raises(ValueError, match="no preset 'efficienttam_xl'"):
        our_config("preset:efficienttam_xl")


# -------------------------------------------------------------------------------------------------- the commands


def test_models_are_listed_fetched_and_removed(hub, capsys):
    assert main(["models", "fetch", NAME]) == 0
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^{NAME} +17.9 M +512x512 +Apache 2.0 +\d+ MB$", out, re.M)
    assert re.search(r"^efficienttam_s +34.1 M +1024x1024 +Apache 2.0 +89.2 +74.5 +no$", out, re.M)
    assert re.search(r"^efficienttam-nano +5.8 M +352x352 +Apache 2.0 +comes with this package$", out, re.M)
    assert str(hub.cache) in out
    assert main(["models", "fetch", NAME, "efficienttam_s"]) == 1
    out, err = capsys.readouterr()
    assert "as before" in out and "efficienttam_s: " in err and "(404)" in err
    assert main(["models", "remove", NAME]) == 0
    assert "MB freed" in capsys.readouterr().out
    assert published.found(NAME) is None
    assert not [path for path in hub.cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    assert main(["models", "remove", NAME]) == 0
    assert "was not here" in capsys.readouterr().out
    for arguments in (
        ["fetch"],
        ["fetch", "efficienttam_xl"],
        ["fetch", NAME, "--all"],
        ["remove", "efficienttam-nano"],
    ):
        assert main(["models", *arguments]) == 2


@pytest.mark.parametrize("form", ["hf", "page", "address"])
def test_convert_takes_files_from_the_web(form, hub, model, tmp_path, capsys):
    sha = hub.add("me/mine", "runs/best.pt", hub.content(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(NAME)))
    address = {
        "hf": "hf://me/mine/runs/best.pt",
        "page": f"{hub.url}/me/mine/blob/main/runs/best.pt",
        "address": f"{hub.url}/storage/{sha}",
    }[form]
    assert main(["convert", address, str(tmp_path / "out"), "--variant", NAME]) == 0
    assert same_weights(EfficientTamVideoModel.from_pretrained(tmp_path / "out"), model)
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert source["sha256"] == sha and (source.get("file") == "runs/best.pt" or source["url"] == address)


@pytest.mark.parametrize("address", ["hf://me/mine/nothing.pt", "hf://me", "{hub}/storage/nothing"])
def test_what_convert_cannot_fetch_is_said(address, hub, tmp_path, capsys):
    hub.repositories["me/mine"] = {}
    assert main(["convert", address.format(hub=hub.url), str(tmp_path / "out"), "--variant", NAME]) == 2
    assert not (tmp_path / "out").exists()


@pytest.fixture
def clip(tmp_path) -> Path:
    from PIL import Image

    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(make_clip(3, 128, 96).frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg")
    return folder


def test_tracking_without_a_model_named(hub, clip, monkeypatch, tmp_path, capsys):
    pytest.importorskip("av")
    track = ["track", str(clip), "--point", "40,40", "--overwrite", "--device", "cpu", "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert main(track) == 0
        assert f"Model: {NAME} of {PUBLISHED_REPOSITORY} (the default on a CPU;" in capsys.readouterr().out
        cut_off(monkeypatch)
    assert main(["models", "remove", NAME]) == 0
    assert main(track) == 0
    out = capsys.readouterr().out
    assert "Model: efficienttam-nano, a small one that comes with this package (the authors'" in out
    assert json.loads((tmp_path / "out" / "masks.json").read_text())["model"] == "efficienttam-nano"


@pytest.mark.parametrize("where", ["the hub", "nowhere"])
def test_labelling_and_measuring_take_the_same_default(where, hub, monkeypatch, capsys):
    if where == "nowhere":
        cut_off(monkeypatch)
    expected = NAME if where == "the hub" else "efficienttam-nano"
    taken = []

    def stop(what, *_, **__):
        taken.append(what[0] if isinstance(what, list) else what.models[0])
        raise ValueError("as far as it goes")

    monkeypatch.setattr("efficienttam_hf.data.pseudo_labels.labelling.load_teacher", stop)
    monkeypatch.setattr("efficienttam_hf.data.pseudo_labels.labelling.find_media", lambda folder: [])
    monkeypatch.setattr("efficienttam_hf.benchmark.runner.run", stop)
    for command in (["pseudo-label", "media"], ["benchmark"]):
        assert main([*command, "--device", "cpu"]) == 2
        out, err = capsys.readouterr()
        assert taken.pop() == expected and "as far as it goes" in err
        assert re.search(rf"^(Model|Teacher): {expected}", out, re.M)
    assert main(["benchmark", "--random-weights", "--device", "cpu"]) == 2
    assert taken.pop() == f"preset:{NAME}", "nothing is fetched for that"


@pytest.mark.slow
def test_a_real_video_is_tracked_without_a_model_named(monkeypatch, tmp_path, capsys):
    """The whole way with a checkpoint of full size, rebuilt, in place of the authors'."""
    video = REFERENCE.parent / "data" / "videos" / "dog.mp4"
    if not (REFERENCE.is_dir() and video.is_file()):
        pytest.skip("needs the reference folder and its videos")
    pytest.importorskip("av")
    tensors = {name: torch.from_numpy(array) for name, array in load_recipe().state_dict(NAME, 0).items()}
    file = io.BytesIO()
    torch.save({"model": tensors}, file)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with hub_server() as hub:
        hub.cache = tmp_path / "cache"
        hub.add(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(NAME), file.getvalue())
        track = ["track", str(video), "--point", "400,250", "--end", "4", "--device", "cpu", "--overwrite"]
        track += ["--out", str(tmp_path / "out")]
        for asked in (1, 0):
            hub.requests.clear()
            process = start(hub, *track, before=REAL)
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
            assert f"Model: {NAME} of {PUBLISHED_REPOSITORY} (the default on a CPU" in out
            assert hub.count("GET /storage/") == asked and bool(hub.requests) == bool(asked)
        process = start(hub, *track, before=REAL, HF_ENDPOINT=NOWHERE, HF_HUB_CACHE=str(tmp_path / "empty"))
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "Model: efficienttam-nano, a small one" in out and f"{NOWHERE} cannot be reached" in out
