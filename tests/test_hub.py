"""Model cards, the generated `hub_configs/`, and publishing, against a server that stands in for the Hub."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hub_server import hub_server
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.utils import close_session
from reference import tiny_config
from safetensors.torch import load_file, save_file
from script_files import load_script
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoVideoProcessor

from efficienttam_hf import (
    PRESETS,
    EfficientTamConfig,
    EfficientTamImageProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    EfficientTamVideoVideoProcessor,
)
from efficienttam_hf.checkpoints import CheckpointError, published_layout, to_published
from efficienttam_hf.evaluation.paper_tables import rows_for
from efficienttam_hf.hub.model_cards import INCLUDED_MODELS, PAPER_METHODS, card_folder, model_card, place_card
from efficienttam_hf.hub.publishing import PublishingError, checksums, make_repository, upload, verify
from efficienttam_hf.hub_files import Download


ROOT = Path(__file__).resolve().parents[1]
HUB_CONFIGS = ROOT / "hub_configs"
MODELS = [*PRESETS, *INCLUDED_MODELS]
STALE = "hub_configs/ is stale: run python scripts/make_hub_configs.py"


# ------------------------------------------------------------------------------------------- hub_configs and cards


def test_there_is_a_folder_for_each_model_and_no_other():
    assert sorted(folder.name for folder in HUB_CONFIGS.iterdir()) == sorted(MODELS), STALE


@pytest.mark.parametrize("name", MODELS)
def test_hub_configs_are_what_the_presets_say(name):
    included = name in INCLUDED_MODELS
    config = EfficientTamConfig.from_pretrained(name) if included else EfficientTamConfig.from_preset(name)
    stored = AutoConfig.from_pretrained(HUB_CONFIGS / name)
    differing = {key for key, value in config.to_dict().items() if stored.to_dict()[key] != value}
    assert differing <= {"architectures", "dtype", "auto_map", "transformers_version", "_name_or_path"}, STALE
    assert stored.architectures == ["EfficientTamVideoModel"]
    assert stored.auto_map == config.remote_classes, STALE

    processor = AutoProcessor.from_pretrained(HUB_CONFIGS / name)
    assert processor.to_dict() == EfficientTamVideoProcessor.from_config(config).to_dict(), STALE
    assert type(AutoImageProcessor.from_pretrained(HUB_CONFIGS / name)) is EfficientTamImageProcessor
    assert type(AutoVideoProcessor.from_pretrained(HUB_CONFIGS / name)) is EfficientTamVideoVideoProcessor

    card = place_card(model_card(name), card_folder(name), HUB_CONFIGS / name)
    assert (HUB_CONFIGS / name / "README.md").read_text(encoding="utf-8") == card, STALE


@pytest.mark.parametrize("name", MODELS)
def test_a_card_has_metadata_that_the_hub_takes(name):
    card = ModelCard.load(HUB_CONFIGS / name / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("apache-2.0", "transformers")
    assert data["pipeline_tag"] == "mask-generation"
    assert {"efficienttam", "video-object-segmentation"} <= set(data["tags"])
    for heading in ("## Use", "## Limits", "## Licence and citation"):
        assert heading in card.text
    for result in card.data.eval_results or []:
        assert 0 < result.metric_value <= 100
        assert result.task_type and result.dataset_type and result.metric_type in data["metrics"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_numbers_are_on_the_card_and_in_its_metadata_with_their_source(name):
    card = ModelCard(model_card(name))
    published = [
        value
        for table in (1, 2, 3)
        for row in rows_for(table)
        if row.method == PAPER_METHODS.get(name)
        for column, value in row.values.items()
        if value is not None and not column.startswith("parameters")
    ]
    assert [result.metric_value for result in card.data.eval_results or []] == published
    assert all("2411.18933" in result.source_url for result in card.data.eval_results or [])
    assert all(f"| {value:.1f} |" in card.text for value in published)
    assert ("**The paper's**: none." in card.text) == (name not in PAPER_METHODS)
    assert bool(published) == (name in PAPER_METHODS)


def test_a_cards_examples_load_the_repository_it_lies_in():
    card = model_card("efficienttam_s", "me/small")
    assert card.count('from_pretrained("me/small"') == 3 and 'from_pretrained("efficienttam_s"' not in card
    with pytest.raises(ValueError, match="There is no model 'efficienttam_xl'"):
        model_card("efficienttam_xl")


def test_a_cards_pictures_go_with_it_or_are_linked(tmp_path):
    source, folder = tmp_path / "a" / "b", tmp_path / "hub" / "model"
    source.mkdir(parents=True), folder.mkdir(parents=True)
    (tmp_path / "a" / "seen.jpg").write_bytes(b"jpeg")
    card = "![Tracked](../seen.jpg) and ![far](https://example.org/x.png)"
    assert place_card(card, source, folder) == "![Tracked](../../a/seen.jpg) and ![far](https://example.org/x.png)"
    assert not (folder / "seen.jpg").exists()
    assert place_card(card, source, folder, copy_pictures=True).startswith("![Tracked](seen.jpg)")
    assert (folder / "seen.jpg").read_bytes() == b"jpeg"
    with pytest.raises(FileNotFoundError, match="which is not there"):
        place_card("![x](gone.jpg)", source, folder)


# --------------------------------------------------------------------------------------------- making a repository


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """A file of the authors' kind; the tiny model stands in for every variant."""
    config = tiny_config()
    monkeypatch.setattr(EfficientTamConfig, "from_preset", classmethod(lambda cls, name: tiny_config()))
    torch.manual_seed(0)
    ours = EfficientTamVideoModel(config).state_dict()
    torch.save({"model": to_published(ours, config)}, tmp_path / "efficienttam_s.pt")
    return tmp_path / "efficienttam_s.pt"


def test_a_repository_has_all_that_is_needed_and_its_checksums(published, tmp_path):
    sums = make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    assert sums == checksums(tmp_path / "made")
    assert set(sums) > {"config.json", "model.safetensors", "processor_config.json", "README.md", "SHA256SUMS"}
    assert set(sums) > {"modeling_efficienttam_video.py", "processing_efficienttam.py"}
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "made", check=False)
    assert check.returncode == 0
    with pytest.raises(FileExistsError):
        make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    made_again = make_repository("efficienttam_s", tmp_path / "again", "me/small", published)
    assert made_again == sums  # so an upload that is started again finds what it sent


def test_a_repository_has_the_configuration_of_hub_configs(published, tmp_path, monkeypatch, capsys):
    make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    script = load_script("make_hub_configs")
    monkeypatch.setattr(script, "PRESETS", ["efficienttam_s"])
    assert script.main(["--out", str(tmp_path / "hub_configs")]) == 0
    for file in ("config.json", "processor_config.json"):
        made = json.loads((tmp_path / "made" / file).read_text())
        assert made == json.loads((tmp_path / "hub_configs" / "efficienttam_s" / file).read_text())


def test_the_included_model_is_published_with_its_weights_as_they_are(tmp_path):
    name = INCLUDED_MODELS[0]
    sums = make_repository(name, tmp_path / "made", "me/nano")
    assert sums["model.safetensors"] == checksums(card_folder(name))["model.safetensors"]
    assert "auto_map" in json.loads((tmp_path / "made" / "config.json").read_text())
    links = ModelCard.load(tmp_path / "made" / "README.md").text.split("](")[1:]
    local = [link.split(")")[0] for link in links if not link.startswith("http")]
    assert local and all((tmp_path / "made" / link).is_file() for link in local)


def test_a_folder_that_is_not_right_is_not_published(published, tmp_path):
    make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    weights = tmp_path / "made" / "model.safetensors"
    tensors = load_file(weights)

    def changed(message: str, **changes):
        save_file({name: t for name, t in {**tensors, **changes}.items() if t is not None}, weights, {"format": "pt"})
        with pytest.raises(PublishingError, match=message):
            verify(tmp_path / "made", published)

    name = "no_memory_embedding"
    changed("does not give back 'no_mem_embed'", **{name: tensors[name] + 1})
    changed("numbers that are not finite", **{name: tensors[name] * float("nan")})
    changed("unexpected_keys .'something_else'", something_else=torch.zeros(1))
    changed("missing_keys .'no_memory_embedding'", **{name: None})
    (tmp_path / "made" / "memory.py").write_text("print('not ours')")
    with pytest.raises(PublishingError, match="memory.py is not this package's code"):
        verify(tmp_path / "made")


def test_nothing_is_left_of_a_repository_that_could_not_be_made(published, tmp_path):
    tensors = {name: torch.zeros(shape) for name, (_, shape) in published_layout(tiny_config()).items()}
    tensors["no_mem_embed"] += float("inf")
    torch.save({"model": tensors}, published)
    with pytest.raises(CheckpointError, match="not finite"):
        make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    torch.save({"model": {"a": torch.zeros(1)}}, published)
    with pytest.raises(CheckpointError):
        make_repository("efficienttam_s", tmp_path / "made", "me/small", published)
    with pytest.raises(PublishingError, match="give the authors' file"):
        make_repository("efficienttam_s", tmp_path / "made", "me/small")
    assert not (tmp_path / "made").exists()


# ------------------------------------------------------------------------------------------------------- uploading


@pytest.fixture
def hub(monkeypatch):
    """A server in place of the Hub, and a token for it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the plain protocol for large files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        close_session()
        yield server
        close_session()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files to upload: two large ones, two small ones."""
    (tmp_path / "files").mkdir()
    for name in ("a.safetensors", "b.safetensors", "c.py", "README.md"):
        (tmp_path / "files" / name).write_text(f"# {name}\n")
    return tmp_path / "files"


def test_an_upload_is_one_commit_with_the_checksums_in_its_message(hub, folder):
    result = upload(folder, "me/model", HfApi(), "A model", create=True)
    assert (sorted(result.sent), result.kept) == (["README.md", "a.safetensors", "b.safetensors", "c.py"], [])
    assert all(hub.content("me/model", name) == (folder / name).read_bytes() for name in result.sent)
    (commit,) = hub.commits
    assert commit["summary"] == "A model"
    assert all(f"{sha}  {name}" in commit["description"] for name, sha in checksums(folder).items())


def test_what_is_there_is_not_sent_again(hub, folder):
    upload(folder, "me/model", HfApi(), "A model", create=True)
    sent = hub.count("PUT")
    again = upload(folder, "me/model", HfApi(), "A model")
    assert (again.sent, len(again.kept), len(hub.commits)) == ([], 4, 1)
    (folder / "c.py").write_bytes(b"changed")
    assert upload(folder, "me/model", HfApi(), "A change").sent == ["c.py"]
    assert hub.content("me/model", "c.py") == b"changed"
    assert hub.count("PUT") == sent


def test_an_upload_that_breaks_off_goes_on_where_it_stopped(hub, folder):
    last = f"PUT /storage/{checksums(folder)['b.safetensors']}"
    hub.refuse = lambda request: 400 if request == last else None
    with pytest.raises(PublishingError, match="The upload to me/model broke off.*Run the same command again"):
        upload(folder, "me/model", HfApi(), "A model", create=True)
    assert hub.repositories["me/model"] == {}  # nothing half done is seen
    while checksums(folder)["a.safetensors"] not in hub.store:  # sent at the same time by another thread
        pass
    hub.refuse = lambda request: 400 if "/commit/" in request else None
    with pytest.raises(PublishingError, match="broke off"):
        upload(folder, "me/model", HfApi(), "A model")
    assert hub.repositories["me/model"] == {}
    hub.refuse = lambda request: None
    assert len(upload(folder, "me/model", HfApi(), "A model").sent) == 4
    assert hub.count(f"PUT /storage/{checksums(folder)['a.safetensors']}") == 1
    assert hub.count(last) == 2


def test_other_bytes_than_were_sent_are_noticed(hub, folder, monkeypatch):
    def corrupt(request: str) -> None:
        if "/paths-info/" in request and hub.commits:
            hub.repositories["me/model"]["c.py"] = ("regular", b"other")

    hub.refuse = corrupt
    with pytest.raises(PublishingError, match=r"other bytes than were sent: \['c.py'\]"):
        upload(folder, "me/model", HfApi(), "A model", create=True)


@pytest.mark.parametrize(
    ("token", "repository", "refused", "message"),
    [
        ("hf_wrong", "me/model", None, "The Hub does not know you. Log in with `hf auth login`"),
        (None, "me/model", None, "The Hub does not know you. Log in with `hf auth login`"),
        ("hf_right", "me/none", None, "There is no repository me/none that you can see. .* add --create"),
        ("hf_right", "me/model", "/preupload/", "Your token may not write to me/model"),
    ],
    ids=["wrong token", "no token", "no repository", "a token that only reads"],
)
def test_what_is_wrong_is_said(token, repository, refused, message, hub, folder, monkeypatch, tmp_path):
    hub.repositories["me/model"] = {}
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    hub.refuse = lambda request: 403 if refused and refused in request else None
    with pytest.raises(PublishingError, match=message):
        upload(folder, repository, HfApi(), "A model")
    assert (hub.commits, hub.count("PUT")) == ([], 0)


# ------------------------------------------------------------------------------------------------------ the script


def test_the_script_sends_nothing_unless_told(hub, published, capsys):
    assert load_script("push_to_hub").main(["efficienttam_s", "me/small", "--checkpoint", str(published)]) == 0
    out = capsys.readouterr().out
    assert hub.requests == []
    assert "Dry run: verified, and nothing sent." in out and "model.safetensors" in out


@pytest.mark.slow
def test_the_script_fetches_makes_and_uploads(hub, published, monkeypatch, capsys, tmp_path):
    script = load_script("push_to_hub")
    monkeypatch.setattr(script, "download", lambda repository, file: Download(published, {}))
    arguments = ["efficienttam_s", "me/small", "--push", "--create", "--out"]
    assert script.main([*arguments, str(tmp_path / "out")]) == 0
    assert set(hub.repositories["me/small"]) == set(checksums(tmp_path / "out"))
    assert "files sent, 0 there already" in capsys.readouterr().out
    assert script.main([*arguments, str(tmp_path / "again")]) == 0
    assert "0 files sent" in capsys.readouterr().out


def test_the_script_says_what_is_wrong(hub, published, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SystemExit) as stop:
        load_script("push_to_hub").main(["efficienttam_s", "me/small", "--checkpoint", str(published), "--push"])
    assert stop.value.code == 2
    assert "The Hub does not know you" in capsys.readouterr().err
