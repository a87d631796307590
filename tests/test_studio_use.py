"What a person does with the studio, through its API: files that are no videos, seeds, deleting, filtering, what a run will need; and words of the command line."
import shutil
from pathlib import Path

import pytest
from gradio_client import handle_file

from jointdit.studio import app as studio
from jointdit.studio.context import Studio
from jointdit.studio.form import keep_upload, seeds_of
from jointdit.studio.made import one
from jointdit.studio.serve import own_uploads
from jointdit.studio.wishes import example
from test_app import WISH, app, client, project  # noqa: F401  (fixtures)


@pytest.mark.parametrize("field,name", [("video", "fake.mp4"), ("audio", "fake.wav"), ("image", "fake.png"), ("video", "sound_only.wav")])
def test_an_upload_that_is_something_else_is_refused_and_removed(app, client, project, tmp_path, field, name):
    given = Path(example(app.studio, "a bouncing ball", "wav")) if name.startswith("sound") else tmp_path / name
    if not given.exists(): given.write_text("this is a text")
    else: given = Path(shutil.copyfile(given, tmp_path / name))
    folders = Path(own_uploads()), project / "outputs/uploads"
    before = {p for f in folders for p in f.rglob("*") if p.is_file()}
    with pytest.raises(Exception, match="can be read, and was not kept") as e: client.predict(**WISH, direction=field, **{field: handle_file(str(given))}, api_name="/generate")
    assert str(project) not in str(e.value) and own_uploads() not in str(e.value)
    assert {p for f in folders for p in f.rglob("*") if p.is_file()} == before


def test_what_is_kept_is_named_from_the_project(app, project, monkeypatch):
    monkeypatch.chdir(project)
    assert keep_upload(Studio(), "outputs/uploads/" + Path(example(app.studio, "a bouncing ball")).name, "video").startswith("outputs/uploads/")


def test_a_random_seed_is_in_the_card(client, project):
    first = {e["id"] for e in client.predict(api_name="/history")}
    client.predict(**{**WISH, "seed": -1}, api_name="/generate")
    new = [e for e in client.predict(api_name="/history") if e["id"] not in first]
    assert len(new) == 1 and 0 <= new[0]["seed"] < 10**6 and f"seed{new[0]['seed']:03d}" in new[0]["id"]
    assert seeds_of(dict(seed=7, clips=3)) == [7, 8, 9] and len({seeds_of(dict(seed=-1, clips=1))[0] for _ in range(20)}) > 10


def test_history_is_filtered_compared_and_deleted(app, client, project):
    for seed, prompt in ((70, "a red lamp"), (71, "a blue rotor")): client.predict(**{**WISH, "seed": seed, "prompt": prompt}, api_name="/generate")
    assert [e["seed"] for e in client.predict("blue rotor", api_name="/history")] == [71]
    assert [e["seed"] for e in client.predict("seed 70", api_name="/history")] == [70] and not client.predict("submarine", api_name="/history")
    rows = {r[0]: r[1:] for r in client.predict("ui_infer/seed070_steps02", "ui_infer/seed071_steps02", api_name="/compare_clips")}
    assert rows["Prompt"] == ["a red lamp", "a blue rotor"] and rows["Seed"] == ["70", "71"]
    assert client.predict("ui_infer/seed070_steps02", api_name="/delete_clip") >= 3
    assert not list((project / "outputs/ui_infer").glob("seed070*")) and not client.predict("seed 70", api_name="/history")
    with pytest.raises(Exception, match="not there any more"): client.predict("ui_infer/seed070_steps02", api_name="/card")
    assert one(app.studio, "ui_infer/seed071_steps02").file("mp4").is_file()


def test_paths_of_a_comparison_are_told_from_the_project(app, client, project):
    clip = example(app.studio, "a bouncing ball")
    client.predict(**{**WISH, "seed": 72}, direction="video", video=handle_file(clip), api_name="/generate")
    client.predict(**{**WISH, "seed": 73}, api_name="/generate")
    rows = client.predict("ui_infer/seed072_steps02", "ui_infer/seed073_steps02", api_name="/compare_clips")
    assert str(project) not in str(rows) and ["Video", "–"] == [r for r in rows if r[0] == "Video"][0][::2]
    assert [r for r in rows if r[0] == "Video"][0][1].startswith("outputs/uploads/")


def test_what_is_known_before_a_run(client):
    assert client.predict(api_name="/checkpoints")[0][0].startswith("Newest: x · stage A · step 1")
    small, large = (client.predict(seconds=s, api_name="/estimate") for s in (.5, 20.))
    assert 0 < small["peak_gib"] < large["peak_gib"] < large["free_gib"] and small["seconds"] < large["seconds"]


def test_a_missing_ref_meta_and_checkpoints_that_are_gone(client, tmp_path, monkeypatch):
    with pytest.raises(Exception, match="not there any more. Choose another"): client.predict(**WISH, direction="like", meta="data/cache/meta/val/none.json", api_name="/generate")
    monkeypatch.chdir(tmp_path)
    empty = Studio()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/ui_infer.yaml").write_text("steps: 2\nckpt: checkpoints/x/ckpt_step_000001.pt\n")
    from jointdit.studio.generate import estimate_line
    from jointdit.studio.wishes import read_config
    assert ">checkpoints/x/ckpt_step_000001.pt: there is no such checkpoint<" in estimate_line(empty, read_config(empty, "configs/ui_infer.yaml") | dict(checkpoint="checkpoints/x/ckpt_step_000001.pt"))


def test_a_clip_of_the_command_line_is_in_the_history(client, project):
    from jointdit.sample.infer import generate
    from jointdit.sample.request import load_request
    s = load_request(project / "configs/ui_infer.yaml", dict(ckpt=str(project / "checkpoints/day05_stage_a_x"), prompt="made in a terminal", steps=2, seeds=[3], out_dir=str(project / "outputs/cli")), [], say=lambda line: None)
    generate(s, say=lambda line: None)
    assert [e["id"] for e in client.predict("terminal", api_name="/history")] == ["cli/seed003_steps02"]


def test_a_folder_of_clips_outside_of_the_project(app, tmp_path):
    from jointdit.studio.looking import look, places
    clips = tmp_path / "mine"
    clips.mkdir()
    shutil.copyfile(example(app.studio, "a bouncing ball"), clips / "one.mp4")
    (clips / "two.mp4").write_text("this is no video")
    place = f"folder:{clips}"
    assert place not in [v for _, v in places(Studio(app.studio.root))]
    ctx = Studio(app.studio.root, data_root=clips)      # --data-root
    assert place in [v for _, v in places(ctx)]
    seen = look(ctx, place)
    assert [i for _, i in seen.clips] == ["one"] and len(seen.problems) == 1 and seen.problems[0][2]
