"The demo from end to end, with numbers as small as they can be: toy clips, somebody's clips, an interruption."
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jointdit.core import CheckpointError, load_json
from jointdit.data.media import probe, write_video
from jointdit.demo import Demo
from jointdit.demo_page import Plan, Shown, clip_html, hms
from jointdit.toyworld import make_clip

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    demo = Demo(minutes=.1, out=root / "out", clips=8, val=4, steps=2, prompts=["a large red metal ball bounces"], root=root, looks=4)
    return demo, demo.run()


def test_every_link_of_the_page_leads_to_a_file(toy):
    demo, page = toy
    links = re.findall(r'(?:src|href)="([^"]+)"', page.read_text())
    assert len([x for x in links if x.endswith(".mp4")]) == 5
    assert all((page.parent / x).is_file() for x in links), links


def test_every_clip_has_picture_and_sound(toy):
    demo, page = toy
    for mp4 in page.parent.glob("clips/*/*.mp4"):
        info = probe(mp4)
        assert info.picture and info.sound and info.picture.end == pytest.approx(2, abs=.05)


def test_the_page_shows_both_stages_and_every_direction(toy):
    text = toy[1].read_text()
    for said in ("loss_A.png", "loss_B.png", "text → both", "image → both", "video → audio", "audio → video", "continuation", "make ui"):
        assert said in text, said


def test_sync_is_measured_before_and_after(toy):
    demo, page = toy
    looks = load_json(demo.out / "state.json")["sync"]
    assert list(looks) == ["real clips", "before training", "after 0.1 minutes"] and looks["real clips"]["sync_f1"] > .8
    assert "Does the sound come at the right moment?" in page.read_text()


def test_a_start_that_is_not_there_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"): Demo(start=str(tmp_path / "none.pt"), out=tmp_path / "out", root=tmp_path).run()
    assert not (tmp_path / "data").exists()
    assert [k for k, _ in Demo(start="shipped").stages] == ["B"] and "stage A" not in Demo(start="shipped").plan().estimates


def test_a_finished_demo_starts_anew_and_an_unfinished_one_goes_on(toy, capsys):
    demo, _ = toy
    assert load_json(demo.out / "state.json")["finished"] and demo._load()["begun"] == []
    demo._save(load_json(demo.out / "state.json") | {"finished": False})
    assert demo._load()["begun"] == ["A", "B"] and "going on" in capsys.readouterr().out
    demo._run(demo._load(), demo.plan())
    assert "stage A is done already" in capsys.readouterr().out


def test_a_folder_of_somebodys_clips(tmp_path):
    (tmp_path / "my clips").mkdir()
    for i in range(3):
        clip = make_clip(i)
        write_video(tmp_path / f"my clips/{i}.mp4", clip.frames, 12, clip.wave if i else None)
    page = Demo(minutes=.1, data=str(tmp_path / "my clips"), out=tmp_path / "out", steps=2, root=tmp_path).run()
    assert "<video" in page.read_text() and (tmp_path / "out/state.json").is_file()


def test_a_folder_that_is_not_there_is_one_paragraph():
    done = subprocess.run([sys.executable, "scripts/demo.py", "--data", "no/such/folder"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no/such/folder" in done.stderr and "Traceback" not in done.stderr


def test_captions_are_escaped_and_time_is_said_in_words():
    assert "<b>a" not in clip_html(Shown("<b>a", Path("x.mp4")), Path(".")).replace("<p><b>", "")
    assert (hms(0), hms(59.6), hms(125)) == ("0 s", "1 min 00 s", "2 min 05 s")


def test_the_time_left_is_of_steps_that_did_not_finish():
    plan = Plan({"a": 10, "b": 20})
    with pytest.raises(ValueError), plan.step("a"): raise ValueError
    assert plan.left() == 30


@pytest.mark.parametrize("bf16, clips", [(True, 32), (False, 16)])
def test_slow_steps_are_smaller_ones(tmp_path, monkeypatch, bf16, clips):
    "Minutes are what is given: a processor without products in bf16 gets more steps of fewer clips."
    seen = {}
    monkeypatch.setattr("jointdit.settings.cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr("jointdit.settings.torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("jointdit.demo.train_stage", lambda s, callbacks: seen.update(batch=s.data.batch_size))
    Demo(out=tmp_path, root=tmp_path).train("A", 1., False)
    assert seen["batch"] == clips
