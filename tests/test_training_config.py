"""A run as data: what is accepted, and what is refused by name before anything starts."""

import dataclasses
import json

import pytest

from efficienttam_hf.training.config import (
    ConfigError,
    OptimizerOptions,
    SourceOptions,
    StageOptions,
    TrainingConfig,
    load_config,
)
from efficienttam_hf.training.run_folder import RunFolder
from efficienttam_hf.training.sources import StepIndices


def write(path, text):
    path.write_text(text)
    return path


def test_a_file_and_overrides_make_a_configuration(tmp_path):
    path = write(
        tmp_path / "run.yaml",
        "output: runs/mine\noptimizer: {betas: [0.9, 0.95], eps: 1e-6}\n"
        "stages:\n  - {steps: 10, image_size: 128}\n  - {steps: 20, user: {correction_clicks: 3}}\n",
    )
    config = load_config(path, ["stages.1.steps=7", "losses.dice_weight=2", "precision=no", "data.0.root=ingredients"])
    assert config.output == "runs/mine"
    assert [stage.steps for stage in config.stages] == [10, 7]
    assert config.stages[0].image_size == 128 and config.stages[1].image_size is None
    assert config.optimizer == OptimizerOptions(betas=(0.9, 0.95), eps=1e-6)
    assert config.losses.dice_weight == 2.0
    assert config.precision == "no"
    assert config.data == [SourceOptions(root="ingredients")]
    assert config.user_of(0).correction_clicks == 7 and config.user_of(1).correction_clicks == 3
    assert config.total_steps == 17


def test_json_is_read_too_and_a_configuration_comes_back_from_what_is_saved(tmp_path):
    config = load_config({}, ["stages.0.steps=3", "freeze=[vision_encoder]"])
    path = write(tmp_path / "run.json", json.dumps(config.to_dict()))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stagess.0.steps=1"], r"no field 'stagess'. The fields are output, model, "),
        (["optimizer.lr=1"], r"no field 'optimizer.lr'. `optimizer` has betas, eps, weight_decay"),
        (["stages.0.step=1"], r"no field 'stages\[0\].step'. `stages\[0\]` has name, steps, "),
        (["stages.0.user.clicks=1"], r"no field 'stages\[0\].user.clicks'. .* has point_probability"),
        (["stages.0.user.point_probability=2"], r"stages\[0\].user.*point_probability` must be between 0 and 1, got 2"),
        (["stages.0.steps=many"], r"`stages\[0\].steps` must be int, got 'many'"),
        (["stages.0.steps=1.5"], r"`stages\[0\].steps` must be int, got 1.5"),
        (["stages.0.steps=true"], r"`stages\[0\].steps` must be int, got True"),
        (["stages.0.steps=0"], r"`stages\[0\]`: `steps` must be at least 1, got 0"),
        (["stages.0.micro_batch_size=0"], r"`micro_batch_size` must be at least 1, got 0"),
        (["stages=[]"], "`stages` is empty"),
        (["stages=3"], "`stages` must be a list, got 3"),
        (["stages.1.steps=3"], "Cannot set 'stages.1.steps': '1' is not the number of one of the 1 items"),
        (["optimizer.betas=[0.9]"], r"`optimizer.betas` must be a list of 2 values, got \[0.9\]"),
        (["optimizer.betas=[0.9, 1.0]"], "`betas` must be at least 0 and below 1"),
        (["precision=fp8"], "`precision` must be one of no, bf16, fp16, auto, got 'fp8'"),
        (["splice_probability=1.5"], "`splice_probability` must be from 0 to 1, got 1.5"),
        (["ema_decay=1"], "`ema_decay` must be at least 0 and below 1, got 1.0"),
        (["workers=-1"], "`workers` must be at least 0, got -1"),
        (["data.0.weight=0"], r"`data\[0\]`: `weight` must be above 0, got 0.0"),
        (
            ["evaluation.prompt=scribble"],
            "`prompt` must be one of mask, box, 1-click, 3-click, 5-click, got 'scribble'",
        ),
        (["evaluation.max_frames=2"], "`max_frames` must be at least 3, got 2"),
        (["seed"], "written as key.path=value, got 'seed'"),
        (["seed=[1"], r"seed=\[1 is neither YAML nor JSON"),
        (["output.name=x"], "Cannot set 'output.name'"),
    ],
)
def test_what_is_not_accepted_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"output": "runs/x"}, overrides)


@pytest.mark.parametrize(
    ("content", "message"),
    [("stages: [", "is neither YAML nor JSON"), ("- 1", "must be a mapping of fields, got list")],
)
def test_a_file_of_another_kind_is_named(content, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "run.yaml", content))
    with pytest.raises(ConfigError, match="There is no configuration '.*nowhere.yaml'"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "content",
    [
        "seed: 2024-99-99",  # a date that does not exist
        "model: " + "[" * 5000,
        "seed: " + "9" * 10_000,
        "seed: " + "x" * 10_000,
        "? " + "x" * 10_000,
        "optimizer: {eps: 1" + "0" * 400 + "}",
        "stages:\n  - {name: [1, 2]\n  x",
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)) + "seed: *a59",
    ],
    ids=["date", "nesting", "digits", "text", "key", "overflow", "lines", "aliases"],
)
def test_a_hostile_file_is_refused_in_one_short_line_that_names_it(content, tmp_path):
    with pytest.raises(ConfigError, match="run.yaml") as refusal:
        load_config(write(tmp_path / "run.yaml", content))
    assert len(str(refusal.value)) < 2000 and "\n" not in str(refusal.value)


def test_what_is_wrong_with_values_and_overrides_names_both():
    with pytest.raises(ConfigError, match=r"^my.yaml with seed=2 workers=x: `workers` must be int, got 'x'"):
        load_config({}, ["seed=2", "workers=x"], where="my.yaml")


# ------------------------------------------------------------------------------------------------------ sharing out


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2, 8])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_clip_of_a_step_is_loaded_once_by_one_process(processes, micro_batch_size):
    stage = StageOptions(steps=3, batch_size=8, micro_batch_size=micro_batch_size)
    for step in range(3):
        shares = [StepIndices(stage, rank, processes, start=step) for rank in range(processes)]
        firsts = [i for share in shares for batch in list(share)[: share.micro_batches] for i in batch]
        assert sorted(firsts) == list(range(8 * step, 8 * step + 8))
        assert {len(batch) for share in shares for batch in share} == {min(micro_batch_size or 8, 8 // processes)}
        assert all(len(share) == len(list(share)) for share in shares)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match=r"`batch_size` \(3\) of stage 'clips' must be a multiple .* processes \(2\)"):
        StepIndices(StageOptions(batch_size=3), 0, 2)
    with pytest.raises(ConfigError, match=r"`micro_batch_size` \(3\) .* must divide .* \(4 clips\)"):
        StepIndices(StageOptions(batch_size=8, micro_batch_size=3), 0, 2)


# ------------------------------------------------------------------------------------------- resumed as what it was


def test_a_resume_names_the_fields_that_differ_with_both_values(tmp_path):
    folder = RunFolder(tmp_path)
    config = TrainingConfig(seed=1, stages=[StageOptions(steps=3), StageOptions(steps=4)])
    folder.save_config(config)
    folder.check_same_config(config)
    other = dataclasses.replace(config, seed=2, stages=[StageOptions(steps=3), StageOptions(steps=5)])
    with pytest.raises(ConfigError, match="`stages.1.steps`: 4 then, 5 now; `seed`: 1 then, 2 now"):
        folder.check_same_config(other)
    with pytest.raises(ConfigError, match="`stages`"):
        folder.check_same_config(dataclasses.replace(config, stages=[StageOptions(steps=3)]))


def test_a_resume_may_change_what_changes_no_result(tmp_path):
    folder = RunFolder(tmp_path)
    config = TrainingConfig()
    folder.save_config(config)
    moved = dataclasses.replace(
        config,
        output="elsewhere",
        workers=4,
        log_every=1,
        keep_checkpoints=9,
        stages=[dataclasses.replace(config.stages[0], micro_batch_size=1)],
        evaluation=dataclasses.replace(config.evaluation, every=3),
    )
    folder.check_same_config(moved)


def test_a_run_that_is_older_than_a_field_has_its_default(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_config(TrainingConfig())
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["losses"]["full_resolution"], saved["ema_decay"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    folder.check_same_config(TrainingConfig())
    with pytest.raises(ConfigError, match="`ema_decay`: 0.0 then, 0.9 now"):
        folder.check_same_config(TrainingConfig(ema_decay=0.9))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="config.json cannot be read"):
        folder.check_same_config(TrainingConfig())
