"""What a training goes on from can be believed: whose it is, that it is whole, and what its card says of it."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from midguide.data.images import save_png
from midguide.errors import CheckpointError, DataError
from midguide.nn.unet import UNetConfig
from midguide.storage.files import alone_in
from midguide.storage.record import fingerprint
from midguide.training import checkpoint, jobs, log
from midguide.training.base import Run, Stopped
from midguide.training.config import TrainingConfig
from midguide.training.denoiser import train
from midguide.training.sources import Images

NETWORK = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
PIXELS = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def recipe(**changes) -> TrainingConfig:
    settings = {"network": NETWORK, "steps": 4, "batch": 4, "warmup": 1, "checkpoint_every": 2, "bfloat16": False}
    return TrainingConfig(**{**settings, **changes})


def trained(folder: Path, pixels: torch.Tensor = PIXELS, *, run: dict | None = None, **changes) -> torch.nn.Module:
    return train(recipe(**changes), Images(pixels), Run(folder, **(run or {})))


def weights(network: torch.nn.Module) -> str:
    return fingerprint(network.state_dict())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("finished")
    trained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(finished: dict[str, bytes], tmp_path: Path) -> Path:
    """The folder of a training of four steps that has ended."""
    for name, content in finished.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_every_flipped_bit_of_a_checkpoint_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, rng, said = tmp_path / "checkpoint.pt", random.Random(0), list[str]()
    state = {"network": {"weight": torch.randn(8)}, "optimizer": {"state": {0: {"step": torch.ones(())}}}}
    state |= {"averages": {0.9: {"weight": torch.randn(8)}}, "streams": [torch.Generator().get_state()]}
    checkpoint.write(path, state | {"step": 4, "seconds": 1.5, "identity": None, "log": [{"step": 4}]})
    whole, content = fingerprint(checkpoint.read(path, "cpu")), path.read_bytes()
    for _ in range(200):
        damaged, place = bytearray(content), rng.randrange(len(content))
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert fingerprint(checkpoint.read(path, "cpu")) == whole
        except CheckpointError as error:
            said.append(error.message)
    assert len(said) > 150
    assert not any("\n" in message for message in said)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("payload-ran"),))


@pytest.mark.parametrize(
    "content",
    [b"", b"half a file", b"<html><body>404</body></html>", b"[1]", pickle.dumps({"a": 1}), pickle.dumps(Payload())],
    ids=["empty", "text", "html", "json", "pickle", "payload"],
)
def test_what_is_no_checkpoint_is_one_line_and_stays(tmp_path: Path, monkeypatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint of a training") as caught:
        trained(tmp_path)
    assert "\n" not in caught.value.message
    assert (tmp_path / "checkpoint.pt").read_bytes() == content
    assert not Path("payload-ran").exists()


@pytest.mark.parametrize("saved", [[1, 2], {"model": torch.ones(2)}, torch.ones(3)], ids=["list", "other", "tensor"])
def test_files_of_others_in_its_place_are_refused(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="holds something else"):
        trained(tmp_path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"^checkpoint of a training .*checkpoint\.pt is a folder"):
        trained(tmp_path)


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(folder: Path) -> None:
    (folder / "log.jsonl").unlink()
    os.mkfifo(folder / "log.jsonl")
    with pytest.raises(CheckpointError, match=r"log of a training .*log\.jsonl is not a regular file but a pipe"):
        log.rows(folder / "log.jsonl")


def test_a_broken_or_lost_log_loses_no_row(folder: Path) -> None:
    file, path = folder / "log.jsonl", folder / "checkpoint.pt"
    rows, before = file.read_text().splitlines(), path.read_bytes()
    for broken in ("\n".join(rows)[:-9], "\n".join([*rows, '{"step": 9', "[1]"]), "", None):
        file.unlink(missing_ok=True) if broken is None else file.write_text(broken)
        trained(folder, steps=6)
        assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6]
        assert file.read_text().splitlines()[:2] == rows
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 1}, "`batch` = 4, this recipe has 1"),
        ({"learning_rate": 0.01}, "`learning_rate` = 0.0006, this recipe has 0.01"),
        ({"flip": False}, "`flip` = True, this recipe has False"),
        ({"prediction": "eps"}, "`prediction` = v, this recipe has eps"),
    ],
)
def test_another_recipe_is_refused_by_the_setting_that_differs(folder: Path, changes: dict, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        trained(folder, steps=8, **changes)


def test_one_replaced_image_is_other_data(folder: Path) -> None:
    pixels = PIXELS.clone()
    pixels[3, 0, 0, 0] += 1
    with pytest.raises(CheckpointError, match="belongs to other data"):
        trained(folder, pixels, steps=8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 2}, "ended at step 4, with `steps` = 4; this recipe has 2"),
        ({"ema": 0.5}, "`ema` = 0.999"),
        ({"cooldown": 0.2}, "`cooldown` = None"),
        ({"name": "another"}, "`name` = prior"),
    ],
)
def test_a_training_that_ended_changes_only_by_more_steps(folder: Path, changes: dict, says: str) -> None:
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(CheckpointError, match=says):
        trained(folder, **changes)
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_more_steps_go_on_and_the_history_says_from_where(folder: Path) -> None:
    told = list[str]()
    trained(folder, run={"note": told.append}, steps=6, cooldown=0.2)
    history = checkpoint.read(folder / "checkpoint.pt", "cpu")["history"]
    assert [entry["step"] for entry in history] == [0, 4]
    assert history[1]["changed"] == {"cooldown": [None, 0.2], "steps": [4, 6]}
    assert told == [
        "going on at step 4 with `cooldown` = 0.2 (it was None), `steps` = 6 (it was 4); its card will say so"
    ]


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(folder: Path) -> None:
    path = folder / "checkpoint.pt"
    old = {name: value for name, value in checkpoint.read(path, "cpu").items() if name in checkpoint.FIRST}
    want = weights(trained(folder, steps=6))
    torch.save(old, path)
    assert weights(trained(folder, steps=6)) == want
    history = checkpoint.read(path, "cpu")["history"]
    assert [entry["midguide"] for entry in history][0] == "unknown"


def test_a_training_stopped_after_any_step_keeps_it_and_ends_alike(tmp_path: Path) -> None:
    want = weights(trained(tmp_path / "straight", steps=5))

    def stop(step: int, total: int, loss: float) -> None:
        raise Stopped

    for step in range(1, 5):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped", run={"on_step": stop}, steps=5)
        assert checkpoint.read(tmp_path / "stopped/checkpoint.pt", "cpu")["step"] == step
    assert weights(trained(tmp_path / "stopped", steps=5)) == want
    logs = [
        [(row["step"], row["loss"]) for row in log.rows(tmp_path / name / "log.jsonl")]
        for name in ("straight", "stopped")
    ]
    assert logs[0] == logs[1]


def test_a_fork_goes_on_with_another_recipe_and_says_what_it_comes_from(folder: Path, tmp_path: Path) -> None:
    before = (folder / "checkpoint.pt").read_bytes()
    fork = {"fork": folder}
    trained(tmp_path / "fork", PIXELS[:4], run=fork, steps=6, learning_rate=0.01, weight_decay=0.5, seed=3)
    assert (folder / "checkpoint.pt").read_bytes() == before
    saved = checkpoint.read(tmp_path / "fork/checkpoint.pt", "cpu")
    entry = saved["history"][-1]
    assert (entry["step"], entry["forked_from"]) == (4, checkpoint.read(folder / "checkpoint.pt", "cpu")["sha256"])
    assert {*entry["changed"]} == {"steps", "learning_rate", "weight_decay", "seed", "data"}
    assert saved["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    with pytest.raises(CheckpointError, match="`learning_rate` = 0.01"):
        trained(tmp_path / "fork", PIXELS[:4], run=fork, steps=8)
    with pytest.raises(CheckpointError, match="there is no"):
        trained(tmp_path / "third", run={"fork": tmp_path / "nowhere"})


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(DataError, match="another process is writing into"):
        trained(tmp_path)
    trained(tmp_path, steps=1)


RECIPE = """
name = "tiny"
steps = 2
batch = 2
checkpoint_every = 1
bfloat16 = false
[network]
channels = 32
multipliers = [1]
blocks = 1
attention = []
patch = 4
"""


def test_a_training_that_ended_keeps_its_card_and_an_extension_gets_one_with_its_history(cli, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "PICTURE_STEPS", 2)
    Path("recipe.toml").write_text(RECIPE)
    Path("images").mkdir()
    for i, image in enumerate(PIXELS):
        save_png(Path("images", f"{i}.png"), image.float(), (0, 255))
    words = ("train", "recipe.toml", "--data", "images", "--out", "out")
    first = cli(*words)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    again = cli(*words)
    assert (again.code, again.out) == (0, first.out), again.err
    assert "had ended before" in again.err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    for change in ("learning_rate=0.1", "card.description=mine", "batch=1"):
        refused = cli(*words, "--set", change)
        assert refused.code == 2
        assert f"with `{change.split('=')[0].split('.')[0]}` = " in refused.err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    longer = cli(*words, "--set", "steps=3", "--set", "cooldown=0.2")
    assert longer.code == 0, longer.err
    assert "going on at step 2 with `cooldown` = 0.2" in longer.err
    card = json.loads(Path("out/tiny.json").read_text())
    assert card["training"]["steps"] == 3
    assert [entry["step"] for entry in card["history"]] == [0, 2]
    fork = cli(*words[:-1], "branch", "--fork", "out", "--set", "learning_rate=0.1", "--set", "steps=4")
    assert fork.code == 0, fork.err
    assert json.loads(Path("branch/tiny.json").read_text())["history"][-1]["changed"]["learning_rate"] == [0.0006, 0.1]
