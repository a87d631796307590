"Settings: strict files, precedence with sources, knobs, devices and dtypes, profiles."
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings as hypo, strategies as st
from pydantic import AliasChoices, Field, field_validator, model_validator

from jointdit import settings as S
from jointdit.settings import *


class Clip(Strict):
    variant: str = Field("ViT-B-16", validation_alias=AliasChoices("variant", "model"), description="dashes, no slashes")
    pretrained: str = Field("openai", validation_alias=AliasChoices("pretrained", "model_path"))
    use_image_firstframe: bool = False
    @field_validator("variant")
    @classmethod
    def _dash(cls, v):
        if "/" in v: raise ValueError(f"write {v.replace('/', '-')}")
        return v

class Group(Strict):
    name: str
    lr: float = 1e-3

class Run(Strict):
    ENV: ClassVar = KNOBS_ENV | {"JOINTDIT_SEED": "seeds", "JOINTDIT_STEPS": "steps", "JOINTDIT_PROMPT": "prompt",
                                 "JOINTDIT_USE_IMG": "clip.use_image_firstframe", "JOINTDIT_CKPT": "ckpt", "JOINTDIT_WV": "weight_v"}
    steps: int = Field(30, ge=1, description="evaluations along the path")
    weight_v: float = 1.2
    seeds: list[int] = [0]
    prompt: str = ""
    ckpt: Path|None = None
    kind: Literal["euler", "heun"] = "euler"
    clip: Clip = Field(default_factory=Clip)
    knobs: Knobs = Field(default_factory=Knobs)
    runtime: Runtime = Field(default_factory=Runtime)
    groups: list[Group] = []
    extras: dict[str, int] = {}
    second: Clip|None = None

def load(tmp_path, text="", env=None, over=None, cls=Run):
    p = tmp_path/"run.yaml"
    p.write_text(text)
    return load_settings(cls, p, env or {}, over)


# ---- precedence and sources

def test_defaults_without_a_file():
    l = load_settings(Run, env={})
    assert l.settings == Run() and set(l.sources.values()) == {"default"} and l.warnings == []

def test_precedence_and_sources(tmp_path):
    l = load(tmp_path, "steps: 10\nweight_v: 2\nprompt: file\nclip: {model: ViT-L-14}",
             {"JOINTDIT_STEPS": "20", "JOINTDIT_PROMPT": "env", "JOINTDIT_MAX_T": "6"}, {"steps": 40, "weight_v": None})
    s = l.settings
    assert (s.steps, s.weight_v, s.prompt, s.clip.variant, s.knobs.max_t) == (40, 2., "env", "ViT-L-14", 6)
    f = f"file {tmp_path/'run.yaml'}"
    assert [l.sources[k] for k in ("steps", "weight_v", "prompt", "clip.variant", "knobs.max_t", "knobs.q_chunk_v")] == \
        ["command line", f, "env JOINTDIT_PROMPT", f, "env JOINTDIT_MAX_T", "default"]

def test_table_names_every_setting_once(tmp_path):
    l = load(tmp_path, "steps: 10", {"JOINTDIT_SEED": "1,2"})
    lines = l.table().splitlines()
    assert len(lines) == len(l.sources) == len({x.split()[0] for x in lines})
    assert any(x.split()[0] == "seeds" and "[1, 2]" in x and x.endswith("env JOINTDIT_SEED") for x in lines)

def test_saved_file_gives_the_same_settings(tmp_path):
    l = load(tmp_path, "steps: 10\ngroups: [{name: a, lr: 1e-4}]\nextras: {x: 1}\nckpt: a/b.pt\nsecond: {model: X}", {"JOINTDIT_SEED": "3"})
    again = load_settings(Run, l.save(tmp_path/"out"/"settings.yaml"), {})
    assert again.settings == l.settings
    assert "# seeds: env JOINTDIT_SEED" in (tmp_path/"out/settings.yaml").read_text()

@hypo(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({}, optional={
    "steps": st.integers(1, 10**6), "weight_v": st.floats(-1e6, 1e6), "prompt": st.text(max_size=20).filter(lambda t: t.isprintable()),
    "seeds": st.lists(st.integers(0, 99), min_size=1, max_size=3), "clip.use_image_firstframe": st.booleans()}))
def test_any_override_survives_saving(tmp_path_factory, over):
    p = tmp_path_factory.mktemp("s")/"a.yaml"
    l = load_settings(Run, env={}, overrides=over)
    assert load_settings(Run, l.save(p), {}).settings == l.settings
    assert all(l.sources[k] == "command line" for k in over)

def test_sources_of_lists_of_groups_and_free_dicts(tmp_path):
    l = load(tmp_path, "groups: [{name: a}, {name: b}]\nextras: {x: 1}")
    f = f"file {tmp_path/'run.yaml'}"
    assert l.sources["groups"] == l.sources["extras"] == f and [g.name for g in l.settings.groups] == ["a", "b"]

def test_empty_file_asks_for_defaults(tmp_path):
    assert load(tmp_path, "").settings == load(tmp_path, "# only a comment\n").settings == Run()

def test_objects_do_not_share_defaults(): assert Run().clip is not Run().clip and Run().seeds is not Run().seeds

def test_the_users_environment(tmp_path):
    env = {"JOINTDIT_PROMPT": "a baby laughing", "JOINTDIT_CKPT": "checkpoints/a/ckpt_step_000100.pt", "JOINTDIT_SEED": "0",
           "JOINTDIT_WV": "1.2", "JOINTDIT_USE_IMG": "1", "JOINTDIT_STEPS": "30"}
    s = load(tmp_path, "", env).settings
    assert s.prompt == "a baby laughing" and s.ckpt == Path("checkpoints/a/ckpt_step_000100.pt") and s.seeds == [0]
    assert s.weight_v == 1.2 and s.clip.use_image_firstframe is True and s.steps == 30

@pytest.mark.parametrize("text", ["off", "yes", "[1", "12", "a: b", "", "null", "é"])
def test_a_prompt_is_text_whatever_it_says(text):
    assert load_settings(Run, env={"JOINTDIT_PROMPT": text}).settings.prompt == text
    assert load_settings(Run, env={}, overrides={"prompt": text}).settings.prompt == text

@pytest.mark.parametrize("text,seeds", [("0", [0]), ("0,1", [0, 1]), ("[0, 1]", [0, 1]), (" 4 , 5 ", [4, 5])])
def test_lists_from_the_shell(text, seeds):
    assert load_settings(Run, env={"JOINTDIT_SEED": text}).settings.seeds == seeds

def test_empty_number_means_not_given():
    l = load_settings(Run, env={"JOINTDIT_STEPS": "", "JOINTDIT_MAX_T": "", "JOINTDIT_SEED": ""})
    assert l.settings == Run() and l.sources["steps"] == "default"

def test_alias_and_name_meet(tmp_path):
    l = load(tmp_path, "clip: {model: ViT-L-14, model_path: x}", over={"clip.variant": "ViT-H-14"})
    assert l.settings.clip.variant == "ViT-H-14" and l.settings.clip.pretrained == "x"
    assert load(tmp_path, over={"clip.model": "ViT-L-14"}).sources["clip.variant"] == "command line"

def test_numbers_with_exponent(tmp_path): assert load(tmp_path, "weight_v: 1e-4").settings.weight_v == 1e-4

def test_one_setting_below_none(tmp_path):
    assert load(tmp_path, "second: null", over={"second.model": "X"}).settings.second.variant == "X"

def test_merge_keys_of_yaml(tmp_path):
    assert load(tmp_path, "clip: &c {model: X}\nsecond: {<<: *c, use_image_firstframe: true}").settings.second.variant == "X"

def test_misspelt_variable_is_mentioned():
    l = load_settings(Run, env={"JOINTDIT_MAXT": "6", "JOINTDIT_QUIET": "1", "HOME": "/", "JOINTDIT_WA": "1"})
    assert l.warnings == ["JOINTDIT_MAXT is not a setting and does nothing. Did you mean JOINTDIT_MAX_T?"]

def test_environment_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setenv("JOINTDIT_STEPS", "7")
    assert load_settings(Run).settings.steps == 7


# ---- bad input: one readable message that names place, key, value

BAD = [
    ("stepz: 3", {}, {}, ["run.yaml", "stepz", "Did you mean steps?"]),
    ("max_t: 3", {}, {}, ["max_t", "Did you mean knobs.max_t?"]),
    ("knobs: {q_chunkv: 3}", {}, {}, ["knobs.q_chunkv", "Did you mean knobs.q_chunk_v?"]),
    ("clip: {varient: x}", {}, {}, ["clip.varient", "Did you mean clip.variant?"]),
    ("clip: {modle: x}", {}, {}, ["Did you mean clip.model?"]),
    ("second: {varient: x}", {}, {}, ["second.varient", "second.variant"]),
    ("groups: [{name: a}, {nme: b}]", {}, {}, ["groups.nme", "groups.name"]),
    ("zzzzzz: 1", {}, {}, ["zzzzzz", "known here: steps"]),
    ("3: 1", {}, {}, ["unknown key 3"]),
    ("steps: many", {}, {}, ["run.yaml", "steps = 'many'", "integer", "evaluations along the path"]),
    ("steps: 0", {}, {}, ["steps = 0", "greater than or equal to 1"]),
    ("steps: 2.5", {}, {}, ["steps = 2.5"]),
    ("steps:", {}, {}, ["steps = None"]),
    ("prompt: 3", {}, {}, ["prompt = 3", "string"]),
    ("kind: rk4", {}, {}, ["kind = 'rk4'", "'euler' or 'heun'"]),
    ("clip: 3", {}, {}, ["clip = 3"]),
    ("clip: [1]", {}, {}, ["clip = [1]"]),
    ("groups: [{lr: 1}]", {}, {}, ["groups.0.name", "required"]),
    ("groups: 3", {}, {}, ["groups = 3"]),
    ("extras: {x: much}", {}, {}, ["extras.x = 'much'"]),
    ("seeds: 3", {}, {}, ["seeds = 3", "list"]),
    ("runtime: {dtype: float32}", {}, {}, ["runtime.dtype = 'float32'", "bf16"]),
    ("runtime: {seed: -1}", {}, {}, ["runtime.seed = -1"]),
    ("knobs: {kv_downsample: 0}", {}, {}, ["knobs.kv_downsample = 0"]),
    ("clip: {model: ViT-L/14}", {}, {}, ["clip.variant", "write ViT-L-14"]),
    ("clip: {model: a, variant: b}", {}, {}, ["clip.model and clip.variant are the same setting"]),
    ("- steps", {}, {}, ["run.yaml", "expected lines of `key: value`"]),
    ("just text", {}, {}, ["expected lines of `key: value`"]),
    ("steps: [1, ", {}, {}, ["run.yaml", "not valid YAML at line"]),
    ("steps: 1\n\tweight_v: 2", {}, {}, ["not valid YAML at line 2"]),
    ("steps: 1\nclip: {}\nsteps: 2", {}, {}, ["steps is written twice", "lines 1 and 3"]),
    ("a: !!python/object:os.system {}", {}, {}, ["not valid YAML"]),
    ("", {"JOINTDIT_MAX_T": "six"}, {}, ["env JOINTDIT_MAX_T", "knobs.max_t = 'six'"]),
    ("", {"JOINTDIT_STEPS": "[1"}, {}, ["env JOINTDIT_STEPS", "steps = '[1'"]),
    ("", {"JOINTDIT_SEED": "a,b"}, {}, ["env JOINTDIT_SEED", "seeds.0 = 'a'", "seeds.1 = 'b'"]),
    ("", {}, {"clip.modle": "x"}, ["command line", "clip.modle", "clip.model"]),
    ("", {}, {"prompt.x": "x"}, ["command line", "prompt.x", "single value"]),
    ("", {}, {"steps": "x"}, ["command line: steps = 'x'"]),
]

@pytest.mark.parametrize("text,env,over,words", BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input(tmp_path, text, env, over, words):
    with pytest.raises(SettingsError) as e: load(tmp_path, text, env, over)
    said = str(e.value)
    for w in words: assert w in said, said
    assert len(said) < 600 and "pydantic" not in said and "Traceback" not in said

def test_all_wrong_values_are_told_at_once(tmp_path):
    with pytest.raises(SettingsError) as e: load(tmp_path, "steps: many\nweight_v: heavy", {"JOINTDIT_MAX_T": "six"})
    assert len(str(e.value).splitlines()) == 3

def test_contradiction_between_fields(tmp_path):
    class Pair(Strict):
        a: int = 0
        b: int = 0
        @model_validator(mode="after")
        def _order(self):
            if self.a > self.b: raise ValueError("a must not be larger than b")
            return self
    with pytest.raises(SettingsError, match="run.yaml: a must not be larger than b"): load(tmp_path, "a: 2\nb: 1", cls=Pair)

@pytest.mark.parametrize("make,words", [(lambda d: d/"none.yaml", "No such file"), (lambda d: d, "directory"),
                                        (lambda d: (d/"b.yaml").write_bytes(b"\xff\xfe\x00\x81") and d/"b.yaml", "not")])
def test_file_that_is_none(tmp_path, make, words):
    with pytest.raises(SettingsError, match=words): load_settings(Run, make(tmp_path), {})

def test_strict_in_python_too():
    with pytest.raises(ValueError, match="Extra inputs"): Run(stepz=1)


# ---- knobs, device, dtype

def test_knobs_zero_means_no_limit():
    assert Knobs(max_t=0) == Knobs() and load_settings(Run, env={"JOINTDIT_MAX_T": "0"}).settings.knobs.max_t is None

def test_every_field_is_described():
    for cls in (Knobs, Runtime): assert all(f.description for f in cls.model_fields.values())

@pytest.fixture
def no_gpu(monkeypatch): monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

def test_cuda_without_a_gpu_falls_back_aloud(no_gpu, capsys):
    assert resolve_device(Runtime(device="cuda")) == torch.device("cpu")
    assert "cuda" in (said := capsys.readouterr().out) and "CPU" in said and said.count("\n") == 1
    assert resolve_device(Runtime(device="auto")) == resolve_device(Runtime(device=" CPU ")) == torch.device("cpu")
    assert capsys.readouterr().out == ""

@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cpu cuda"])
def test_no_device_of_that_name(device):
    with pytest.raises(SettingsError, match="runtime.device"): resolve_device(Runtime(device=device))

def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True); monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device(Runtime(device="cuda")).type == resolve_device(Runtime(device="auto")).type == "cuda"
    with pytest.raises(SettingsError, match="cuda:3"): resolve_device(Runtime(device="cuda:3"))

@pytest.mark.parametrize("has,dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_follows_the_hardware(monkeypatch, has, dtype):
    monkeypatch.setattr(S, "cpu_has_bf16", lambda: has)
    assert resolve_dtype(Runtime(), torch.device("cpu")) == dtype
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has)
    assert resolve_dtype(Runtime(), "cuda") == dtype

def test_cpu_bf16_agrees_with_the_kernel():
    try: flags = Path("/proc/cpuinfo").read_text()
    except OSError: pytest.skip("no /proc/cpuinfo on this system: nothing to compare with")
    if "avx512_bf16" in flags: assert cpu_has_bf16()

def test_fp16_is_refused_on_cpu_even_after_a_fallback(no_gpu):
    r = Runtime(device="cuda", dtype="fp16")
    with pytest.raises(SettingsError, match="fp16.*refused on the CPU"): resolve_dtype(r, resolve_device(r))
    assert resolve_dtype(r, "cuda") == torch.float16

@pytest.mark.parametrize("name,dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_explicit_dtype(name, dtype): assert resolve_dtype(Runtime(dtype=name), "cpu") == dtype

def test_autocast():
    m = torch.nn.Linear(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast("cpu", dtype): assert m(torch.ones(1, 4)).dtype == dtype
    assert m.weight.dtype == torch.float32

def test_start_runtime_seeds_and_sets_threads(no_gpu):
    before = torch.get_num_threads()
    try:
        assert start_runtime(Runtime(device="cpu", dtype="fp32", seed=3, threads=1)) == (torch.device("cpu"), torch.float32)
        a = torch.randn(3); start_runtime(Runtime(device="cpu", seed=3))
        assert torch.equal(a, torch.randn(3)) and torch.get_num_threads() == 1
    finally: torch.set_num_threads(before)


# ---- allocator and profiles

@pytest.mark.parametrize("env,warns", [({}, False), ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}, False),
    ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:true"}, True), ({"PYTORCH_ALLOC_CONF": "a:b,Expandable_Segments: True"}, True),
    ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, False)])
def test_alloc_conf(env, warns, capsys):
    assert bool(warn_alloc_conf(env)) == warns == ("max_split_size_mb:128" in capsys.readouterr().out)

def test_profiles_are_knobs_and_shrink():
    a, b, c = (Knobs(**PROFILES[n]) for n in ("Max-Quality", "Balanced", "Conservative"))
    assert (a.max_t, b.max_t, c.max_t) == (12, 6, 4) and a.q_chunk_v >= b.q_chunk_v >= c.q_chunk_v
    assert a.kv_downsample <= b.kv_downsample <= c.kv_downsample

@pytest.mark.parametrize("gib,name", [(141, "Max-Quality"), (79.1, "Max-Quality"), (47.5, "Balanced"), (44.4, "Balanced"), (39.5, "Conservative"),
                                      (23.7, "Conservative"), (8, "Conservative"), (0, None), (None, None)])
def test_profile_for_vram(gib, name): assert profile_for_vram(gib) == name

def test_profile_fills_only_what_is_not_exported(capsys):
    env = {"JOINTDIT_MAX_T": "9", "JOINTDIT_Q_CHUNK_A": "", "HOME": "/"}
    new, lines = apply_profile("balanced", env)
    assert new == env | {"JOINTDIT_Q_CHUNK_V": "64", "JOINTDIT_Q_CHUNK_A": "0", "JOINTDIT_KV_DOWNSAMPLE": "4",
                         "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
    assert env == {"JOINTDIT_MAX_T": "9", "JOINTDIT_Q_CHUNK_A": "", "HOME": "/"}
    assert capsys.readouterr().out.splitlines() == lines and "JOINTDIT_MAX_T=9" in lines[1] and "JOINTDIT_Q_CHUNK_V=64" in lines[0]
    l = load_settings(Run, env=new)
    assert l.settings.knobs == Knobs(max_t=9, q_chunk_v=64, kv_downsample=4)

def test_profile_keep_user(capsys):
    new, lines = apply_profile("Conservative", {"JOINTDIT_MAX_T": "9"}, keep_user=True)
    assert new == {"JOINTDIT_MAX_T": "9"} and "FORCE_KEEP_USER_ENVS=1" in lines[0] and capsys.readouterr().out

def test_profile_says_where_it_is_told():
    said = []
    new, lines = apply_profile("Max-Quality", {}, say=said.append)
    assert said == lines and len(new) == 5

def test_profile_respects_the_new_allocator_name():
    assert "PYTORCH_CUDA_ALLOC_CONF" not in apply_profile("Balanced", {"PYTORCH_ALLOC_CONF": "x:1"}, say=len)[0]

def test_no_gpu_no_profile():
    new, lines = apply_profile(None, {"A": "1"}, say=len)
    assert new == {"A": "1"} and "none" in lines[0]

@pytest.mark.parametrize("name", ["balanced ", "max quality", "huge"])
def test_unknown_profile(name):
    with pytest.raises(SettingsError, match="Known: Max-Quality, Balanced, Conservative"): apply_profile(name, {}, say=len)
