"The app as a person meets it: a real browser makes clips, stops, looks back, compares, tries weights. Pictures go to outputs/ui_screens."
from pathlib import Path

import pytest
from PIL import Image

from browser_helpers import NARROW, browser, close_toasts, fields_without_names, fits, go, open_page, shoot
from jointdit.core import load_json
from jointdit.studio import app as studio
from jointdit.studio.serve import own_uploads
from jointdit.studio.wishes import example
from jointdit.toyworld import make_clip
from studio_helpers import free_port, make_data
from test_app import project  # noqa: F401  (the fixture)


@pytest.fixture(scope="module")
def chrome():
    with browser() as b: yield b


@pytest.fixture(scope="module")
def app(project):
    make_data(project, 1)
    app = studio.launch(project, port=free_port(), block=False)
    yield app
    app.close()


@pytest.fixture(scope="module")
def page(chrome, app):
    page = open_page(chrome, app.local_url)
    page.locator("#jd_run").wait_for()
    page.locator("#jd_estimate", has_text="Expected").wait_for(timeout=60_000)      # the form is filled
    yield page


def clips(project): return sorted((project / "outputs/ui_infer").glob("*.mp4"))


def wish(page, prompt="a large red ball bounces", steps=3, seed=0):
    go(page, "Generate")
    for label, value in (("Prompt", prompt), ("Steps", steps), ("Seed", seed)): page.get_by_label(label, exact=True).fill(str(value))


def made(page, project, before):
    "Wait for one more clip than before; returns its card."
    for _ in range(1200):
        new = [p for p in clips(project) if p not in before and p.with_suffix(".json").is_file()]
        if new: break
        page.wait_for_timeout(100)
    page.locator("#jd_live").wait_for(state="hidden", timeout=60_000)
    return load_json(new[0].with_suffix(".json"))


def run(page, project):
    "Press Run; returns the card of the clip."
    before = clips(project)
    page.locator("#jd_run").click()
    return made(page, project, before)


def give(page, kind, path): page.locator(f"input[type=file][accept*={kind}]").first.set_input_files(str(path))


def test_a_prompt_becomes_a_clip_with_sound(page, project):
    assert page.get_by_label("Prompt", exact=True).input_value()       # somebody who knows nothing can press Run
    assert fields_without_names(page) == []
    shoot(page, "generate_empty")
    wish(page)
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.locator(".jd-live").first.wait_for(timeout=60_000)
    page.wait_for_function("() => [...document.querySelectorAll('.jd-clip video')].some(v => v.readyState > 0 && v.duration > 0)", timeout=120_000)
    made(page, project, [])
    assert len(clips(project)) == 1
    assert page.get_by_text("Evaluations").first.is_visible() and page.get_by_role("button", name="MP4").first.is_visible()
    shoot(page, "generate")


def test_stop_midway(page, project, app):
    wish(page, steps=400, seed=1)
    page.locator("#jd_run").click()
    page.get_by_text("of 400").first.wait_for(timeout=60_000)
    page.locator(".jd-live img").first.wait_for(timeout=60_000)
    shoot(page, "generate_live")
    page.locator("#jd_stop").click()
    page.get_by_text("Stopped").first.wait_for(timeout=30_000)
    assert len(clips(project)) == 1 and app.studio.jobs.kept[-1].state == "stopped" and app.studio.kits.kit is not None


def test_what_cannot_be_done_is_said_on_the_page(page):
    wish(page, "a ball " * 60)
    page.locator("#jd_run").click()
    page.get_by_text("tokens").first.wait_for(timeout=60_000)
    assert page.get_by_label("Prompt", exact=True).input_value().startswith("a ball a ball")
    wish(page, steps=0)
    page.locator("#jd_run").click()
    page.get_by_text("A number from 1 to 1000.").first.wait_for(timeout=30_000)
    shoot(page, "generate_error")
    close_toasts(page)


def test_a_random_seed_and_the_last_one(page, project):
    wish(page, seed=-1, steps=2)
    seed = run(page, project)["seed"]
    page.get_by_role("button", name="Use last seed").click()
    page.wait_for_function("s => [...document.querySelectorAll('input[type=number]')].some(i => i.offsetParent && i.value === s)", arg=str(seed), timeout=20_000)
    assert page.get_by_text(f"seed {seed},").first.is_visible()


def test_an_upload_that_is_no_video(page, project, tmp_path):
    (tmp_path / "holiday.mp4").write_text("this is a text")
    uploads = project / "outputs/uploads"
    page.get_by_label("Video → audio").check()
    give(page, "video", tmp_path / "holiday.mp4")
    page.get_by_text("holiday.mp4 is no video").first.wait_for(timeout=60_000)
    page.locator("input[type=file][accept*=video]").first.wait_for(state="attached", timeout=30_000)       # the field is empty again
    assert not list(uploads.glob("*")) and not list(Path(own_uploads()).rglob("holiday*"))
    assert page.get_by_label("Steps", exact=True).input_value() == "2"      # and the form is as it was
    close_toasts(page)


def test_every_direction(page, project, app):
    wish(page, seed=2, steps=2)
    page.get_by_label("Video → audio").check()
    give(page, "video", example(app.studio, "a bouncing ball"))
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(v => v.offsetParent && v.src.includes('example'))", timeout=60_000)
    assert run(page, project)["direction"] == "video -> audio"
    page.get_by_label("Continue a clip").check()
    page.get_by_label("Kept beginning (s)").fill("0.2")
    assert run(page, project)["direction"] == "continuation"
    page.get_by_label("Audio → video").check()
    page.get_by_label("a bouncing ball").locator("visible=true").check()
    page.wait_for_function("() => [...document.querySelectorAll('.block')].some(b => b.offsetParent && b.innerText.startsWith('Sound') && b.querySelector('[aria-label=\"Clear\"],[aria-label=\"Remove\"],audio,.waveform-container'))", timeout=60_000)
    assert run(page, project)["direction"] == "audio -> video"
    picture = project / "still.png"
    Image.fromarray(make_clip("a still", scene="ball").frames[0]).save(picture)
    page.get_by_label("Image → both").check()
    give(page, "image", picture)
    page.wait_for_function("() => [...document.querySelectorAll('.image-container img, .image-frame img')].some(i => i.offsetParent && i.naturalWidth)", timeout=60_000)
    assert run(page, project)["direction"] == "image -> both"
    page.get_by_label("Like a cached clip").check()
    page.get_by_label("Cached clip", exact=True).locator("visible=true").first.click()
    page.get_by_role("option").nth(1).click()
    said = run(page, project)
    assert said["settings"]["ref_meta"] and said["settings"]["clip"]["use_image_firstframe"]
    page.get_by_label("Text → both").check()


def test_two_browsers_take_turns(chrome, app, project):
    anna, ben = (open_page(chrome, app.local_url) for _ in "ab")
    for page, who, steps in ((anna, "anna", 300), (ben, "ben", 2)):
        page.locator("#jd_run").wait_for()
        wish(page, f"a bell for {who}", steps, seed=80)
    before = clips(project)
    anna.locator("#jd_run").click()
    anna.get_by_text("of 300").first.wait_for(timeout=60_000)
    ben.locator("#jd_run").click()
    ben.get_by_text("1 run before it").first.wait_for(timeout=60_000)
    assert "anna" not in ben.locator("#jd_live").inner_text() and ben.locator("#jd_live img").count() == 0
    ben.locator("#jd_stop").click()
    ben.get_by_text("Stopped").first.wait_for(timeout=30_000)
    assert app.studio.jobs.now.title == "a bell for anna" and not app.studio.jobs.now.stop_asked.is_set()       # his Stop is not hers
    ben.locator("#jd_run").click()
    ben.get_by_text("1 run before it").first.wait_for(timeout=60_000)
    anna.locator("#jd_stop").click()
    anna.get_by_text("Stopped").first.wait_for(timeout=30_000)
    assert made(ben, project, before)["prompt"] == "a bell for ben"
    assert ben.get_by_text("a bell for ben").first.is_visible() and not anna.locator(".jd-clip video").first.is_visible()
    assert "ben" not in anna.locator("body").inner_text() and [r.state for r in list(app.studio.jobs.kept)[-3:]] == ["stopped", "stopped", "done"]
    for page in (anna, ben): page.close()


def test_history_after_a_restart_compares_fills_the_form_and_deletes(chrome, project):
    again = studio.launch(project, port=free_port(), block=False)
    page = open_page(chrome, again.local_url, "History")
    tiles = page.locator("#jd_history [data-pick]")
    tiles.first.wait_for(timeout=60_000)
    assert tiles.count() == len(clips(project)) == 8
    page.get_by_label("Search", exact=True).fill("bell ben")
    page.wait_for_function("() => document.querySelectorAll('#jd_history [data-pick]').length === 1", timeout=30_000)
    page.get_by_label("Search", exact=True).fill("")
    page.wait_for_function("() => document.querySelectorAll('#jd_history [data-pick]').length === 8", timeout=30_000)
    page.locator("[data-pick*=seed000]").first.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Now open another one").wait_for(timeout=30_000)
    page.locator("[data-pick*=seed002]").first.click()
    page.locator("#jd_compare video").nth(1).wait_for(timeout=60_000)
    told = page.locator("#jd_compare").inner_text()
    assert "Seed" in told and str(project) not in told
    page.wait_for_timeout(800)
    shoot(page, "compare")
    page.get_by_role("button", name="Use these settings").click()
    page.locator("#jd_run").wait_for(timeout=30_000)
    page.wait_for_function("() => [...document.querySelectorAll('input[type=number]')].some(i => i.offsetParent && i.value === '2')", timeout=30_000)
    go(page, "History")
    page.on("dialog", lambda d: d.accept())
    page.locator("[data-pick*=seed080]").first.click()
    page.get_by_role("button", name="Delete").click()
    page.wait_for_function("() => document.querySelectorAll('#jd_history [data-pick]').length === 7", timeout=30_000)
    assert not list((project / "outputs/ui_infer").glob("seed080*"))
    page.close()
    again.close()


def test_guidance_grid(page):
    wish(page, steps=2)
    go(page, "Guidance lab")
    for i, text in enumerate(("0, 2", "1.5")): page.get_by_label("Values").nth(i).fill(text)
    page.locator("#jd_lab_run").click()
    page.wait_for_function("() => document.querySelectorAll('#jd_lab [data-pick]').length === 2", timeout=120_000)
    page.wait_for_timeout(500)
    shoot(page, "lab")
    page.locator("#jd_lab [data-pick]").last.click()
    page.locator("#jd_run").wait_for(timeout=30_000)
    page.get_by_role("button", name="Guidance").locator("visible=true").first.click()
    weight = page.get_by_label("Audio watches video").locator("visible=true")
    weight.wait_for(timeout=30_000)
    assert weight.input_value() == "2"


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_screen_and_dark(chrome, app, dark):
    page = open_page(chrome, app.local_url, size=NARROW, dark=dark)
    for tab in ("Generate", "History", "Guidance lab", "About"):
        go(page, tab)
        page.wait_for_timeout(700)
        assert fits(page), tab
        assert fields_without_names(page) == [], tab
        shoot(page, f"phone_{tab.lower().replace(' ', '_')}{'_dark' if dark else ''}")
    page.close()
