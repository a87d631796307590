"""Closed gates reproduce the official pipelines, with tiny random parts in the folder format that diffusers saves; and the encoders are theirs."""
import json

import pytest
import torch

import expert_helpers as H
from jointdit.assets.clip import ClipSettings
from jointdit.assets.conditioner import load_conditioner
from jointdit.core import ModelError
from jointdit.model.joint import build_model
from jointdit.sample.guidance import Guidance
from jointdit.sample.solvers import SamplerSettings, sample_latents, start_noise
from jointdit.timeline import AudioGrid, Timeline, VideoGrid
from jointdit.train.experts import load_experts, resolve_experts

torch.set_num_threads(1)
STEPS, WORDS = 5, ["a", "ball", "bounces", "low", "on", "steel"]
CLOCK = Timeline(3, 7, 16000, VideoGrid(8, 4, 1, 1, 64, 64), AudioGrid(160, 64, 4, 4, 8))


def svd_folder(root):
    "StableVideoDiffusionPipeline of random parts."
    from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(latent_channels=4, block_out_channels=(32,)*4, down_block_types=("DownEncoderBlock2D",)*4, layers_per_block=1)
    eye = CLIPVisionModelWithProjection(CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56, projection_dim=24))
    scheduler = EulerDiscreteScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear", prediction_type="v_prediction", sigma_min=.002, sigma_max=700.,
                                       timestep_spacing="leading", timestep_type="continuous", use_karras_sigmas=True, steps_offset=1)
    unet = H.model(H.SVD, None).video.net
    StableVideoDiffusionPipeline(vae=vae, image_encoder=eye, unet=unet, scheduler=scheduler, feature_extractor=CLIPImageProcessor()).save_pretrained(root)
    return root


def tokenizers(root):
    "A byte-level BPE for CLAP and a word model for T5, both with a few words."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import RobertaTokenizerFast, T5TokenizerFast
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = {c: i for i, c in enumerate(marks + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (root/"vocab.json").write_text(json.dumps(letters)); (root/"merges.txt").write_text("#version: 0.2\n")
    one = RobertaTokenizerFast(vocab=letters, merges=[], model_max_length=24)
    words = Tokenizer(models.Unigram([("<pad>", 0.), ("</s>", 0.), ("<unk>", 0.)] + [("▁" + w, -1.) for w in WORDS], unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    return one, T5TokenizerFast(tokenizer_object=words, model_max_length=16, extra_ids=0)


def audioldm2_folder(root, tmp):
    "AudioLDM2Pipeline of random parts and the toy codec."
    import transformers as T
    from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel, AutoencoderKL, DDIMScheduler
    from jointdit.core import toy_path
    torch.manual_seed(1)
    one, two = tokenizers(tmp)
    side = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=16)
    clap = T.ClapModel(T.ClapConfig(text_config=dict(side, vocab_size=300, max_position_embeddings=40), projection_dim=16, audio_config=dict(
        spec_size=64, hidden_size=16, patch_embeds_hidden_size=16, depths=[1, 1], num_attention_heads=[2, 2], num_hidden_layers=2, num_mel_bins=64, window_size=4, projection_dim=16)))
    parts = dict(text_encoder=clap, text_encoder_2=T.T5EncoderModel(T.T5Config(vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)),
                 projection_model=AudioLDM2ProjectionModel(16, 16, 24), language_model=T.GPT2LMHeadModel(T.GPT2Config(vocab_size=16, n_positions=64, n_embd=24, n_layer=1, n_head=2, max_new_tokens=8)),
                 tokenizer=one, tokenizer_2=two, feature_extractor=T.ClapFeatureExtractor())
    scheduler = DDIMScheduler(beta_start=.0015, beta_end=.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    codec = dict(vae=AutoencoderKL.from_pretrained(toy_path("toy:audioldm2/vae")), vocoder=T.SpeechT5HifiGan.from_pretrained(toy_path("toy:audioldm2/vocoder")))
    AudioLDM2Pipeline(unet=H.model(None, H.ALD).audio.net, scheduler=scheduler, **codec, **parts).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return svd_folder(root/"svd"), audioldm2_folder(root/"audioldm2", root)


@pytest.fixture(scope="module")
def conditioner(folders): return load_conditioner(ClipSettings(experts=[str(f) for f in folders]))


@pytest.fixture(scope="module")
def model(folders, conditioner):
    s = H.ModelSettings(width_v=32, width_a=32, heads=2, head_dim=16, text_dim=conditioner.dim, image_dim=conditioner.dim, n_text=24, n_image=8,
                        expert_v=dict(folder=str(folders[0]), walk="published"), expert_a=dict(folder=str(folders[1]), walk="published"))
    return load_experts(build_model(resolve_experts(s), seed=0)).eval()


def picture(): return torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ours(model, guidance, **contexts):
    v, a, _ = sample_latents(model, CLOCK, [0], settings=SamplerSettings(steps=STEPS, guidance=guidance), bar=iter, **contexts)
    return model.video.normalize(v), model.audio.normalize(a)


def same(mine, theirs):
    "Within 1e-4, and not for want of content."
    print(f"largest difference {float((mine - theirs).abs().max()):.1e} of latents of spread {float(theirs.std()):.2f}")
    assert mine.shape == theirs.shape and theirs.std() > .1
    assert torch.allclose(mine, theirs, atol=1e-4, rtol=0)


def video_pipeline(folder, monkeypatch, **more):
    "Latents of the official pipeline for our picture, with the noise on it that our cache would draw."
    from diffusers import StableVideoDiffusionPipeline
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module
    from PIL import Image
    frame, pipe = picture()[0], StableVideoDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **k: made_noise(frame))
    return pipe(Image.fromarray(frame.numpy()), height=64, width=64, num_frames=3, num_inference_steps=STEPS, fps=7, latents=start_noise(CLOCK, [0])["v"], output_type="latent", **more).frames


def only(**weights): return Guidance(**dict(type="jointcfg", weight_v=0, weight_a=0, weight_txt=0, weight_img=0, rescale=0) | weights)


@pytest.mark.parametrize("scales,weight", [((1., 1.), 0), ((2.5, 2.5), 1.5), (None, (0, 2)), ((2., 1.5), [1, .5])])
def test_stable_video_diffusion(folders, conditioner, model, scales, weight, monkeypatch):
    "Without scales the pipeline takes its own: rising from 1 to 3 over the frames."
    more = dict(min_guidance_scale=scales[0], max_guidance_scale=scales[1]) if scales else {}
    same(ours(model, only(weight_img=weight), i_ctx=conditioner.image(picture()))[0], video_pipeline(folders[0], monkeypatch, **more))


def with_noise(model, amount):
    "The same expert, told another amount of noise."
    import copy
    m = copy.copy(model)
    m._modules = dict(model._modules)
    m.video = copy.copy(model.video)
    m.video.settings = model.video.settings.model_copy(update=dict(noise_aug=amount))
    return m


def test_noise_on_the_picture_is_one_number(folders, conditioner, model, monkeypatch):
    clip = dict(experts=[str(f) for f in folders])
    other = load_conditioner(ClipSettings(**clip, noise_aug=.3))
    usual, more = conditioner.image(picture()), other.image(picture())
    assert (usual.more["svd.latent"] - more.more["svd.latent"]).abs().max() > 1e-3 and more.more["svd.noise_aug"].tolist() == [[pytest.approx(.3)]]
    assert torch.equal(usual.more["svd.embedding"], more.more["svd.embedding"])
    told, plain = with_noise(model, .3), only()
    theirs = video_pipeline(folders[0], monkeypatch, noise_aug_strength=.3)       # both: noise on the latent, and the number
    same(ours(told, only(weight_img=(0, 2)), i_ctx=more)[0], theirs)
    for m, ctx in ((model, more), (told, usual)):
        with pytest.raises(ModelError, match="noise_aug"): ours(m, plain, i_ctx=ctx)
    old = usual.each(lambda x: x); del old.more["svd.noise_aug"]                  # a cache from before the amount was written down
    assert torch.equal(ours(model, plain, i_ctx=old)[0], ours(model, plain, i_ctx=usual)[0])
    with pytest.raises(ModelError, match="noise_aug"): ours(told, plain, i_ctx=old)


def test_the_fingerprint_names_only_an_unusual_noise(folders, conditioner):
    from hashlib import blake2b
    from jointdit.assets.video_codec import fingerprint
    files = [p for f, v in zip(folders, conditioner.voices) for k in v.parts for p in sorted((f/k).glob("*")) if p.suffix in (".json", ".safetensors", ".model", ".txt")]
    assert conditioner.fingerprint == blake2b(f"{conditioner.clip.fingerprint} {fingerprint(*files)}".encode(), digest_size=8).hexdigest()
    assert load_conditioner(ClipSettings(experts=[str(f) for f in folders], noise_aug=.1)).fingerprint != conditioner.fingerprint


def made_noise(frame):
    from hashlib import blake2b
    from jointdit.core import named_rng
    return torch.randn(1, 3, 64, 64, generator=named_rng("noise on a picture", blake2b(frame.numpy().tobytes()).hexdigest()))


PROMPT = "a ball bounces on steel"


@pytest.fixture(scope="module")
def audio_pipeline(folders):
    "Latents of the official pipeline for our prompt."
    from diffusers import AudioLDM2Pipeline
    pipe = AudioLDM2Pipeline.from_pretrained(folders[1])
    pipe.set_progress_bar_config(disable=True)
    return lambda scale, **more: pipe(PROMPT, audio_length_in_s=CLOCK.n_audio_latents*.04, num_inference_steps=STEPS, guidance_scale=scale, latents=start_noise(CLOCK, [0])["a"],
                                      output_type="latent", **more).audios


def test_audioldm2(conditioner, model, audio_pipeline):
    "Alone or beside itself, a prompt says the same."
    theirs = audio_pipeline(1.)
    for ctx in (conditioner.text([PROMPT]), conditioner.text([PROMPT], beside=[PROMPT])): same(ours(model, only(), t_ctx=ctx)[1], theirs)


@pytest.mark.parametrize("branch_batch", [0, 1])
def test_audioldm2_with_its_usual_guidance(conditioner, model, audio_pipeline, branch_batch):
    "No negative prompt: the pipeline sets the prompt against an empty one, filled up to the prompt's length."
    ctx, theirs = conditioner.text([PROMPT], beside=[PROMPT]), audio_pipeline(3.5)
    same(ours(model, only(weight_txt=2.5, branch_batch=branch_batch), t_ctx=ctx)[1], theirs)
    alone = ours(model, only(weight_txt=2.5), t_ctx=conditioner.text([PROMPT]))[1]
    assert (alone - theirs).abs().max() > .1         # training's silence, which is why the prompt brings its own


@pytest.mark.parametrize("negative", ["", "low", "a low steel ball bounces", "a low ball bounces on a low steel ball on steel"])
def test_audioldm2_with_a_negative_prompt(conditioner, model, audio_pipeline, negative):
    "Shorter, as long as the prompt, and longer (which the pipeline cuts)."
    from jointdit.assets.conditioner import cut_beside
    ctx = dict(t_ctx=conditioner.text([PROMPT], beside=[PROMPT]), neg_ctx=conditioner.text([negative], beside=[PROMPT]))
    same(ours(model, only(weight_neg_txt=2.5), **ctx)[1], audio_pipeline(3.5, negative_prompt=negative))
    assert bool(cut_beside(conditioner, negative, PROMPT)) == (len(negative.split()) > len(PROMPT.split()))


def test_silence_and_a_negative_prompt_in_one_call(conditioner, model):
    "The rows of one call do not disturb each other, whatever the lengths of their texts."
    ctx = dict(t_ctx=conditioner.text([PROMPT], beside=[PROMPT]), neg_ctx=conditioner.text(["low"], beside=[PROMPT]))
    for once in (0, 1):
        got = ours(model, only(weight_txt=1, weight_neg_txt=1, branch_batch=once), **ctx)[1]
        if once: assert torch.allclose(got, before, atol=1e-4)
        before = got


def test_silences_of_several_prompts(conditioner):
    "A batch of prompts: each brings the silence that belongs to it."
    both, one = conditioner.text(["a ball", PROMPT], beside=["a ball", PROMPT]), conditioner.text(["a ball"], beside=["a ball"])
    for k in ("generated", "t5"):
        a, b = both.more[f"audioldm2.{k}.absent"][:1], one.more[f"audioldm2.{k}.absent"]
        assert torch.allclose(a[:, :b.shape[1]], b, atol=1e-6)
    assert both.more["audioldm2.t5_mask.absent"].sum(1).tolist() == [1, 1]
    assert not torch.allclose(both.more["audioldm2.generated.absent"][0], both.more["audioldm2.generated.absent"][1], atol=1e-2)
    assert not any(k.endswith(".absent") for k in conditioner.text([PROMPT]).more)      # a cache keeps texts alone


def test_their_schedules_were_read_from_the_folders(model):
    v, a = model.video.settings, model.audio.settings
    assert (v.noise.kind, v.noise.prediction, v.scaling, v.noise.sigma_max) == ("edm", "v_prediction", .18215, 700.)
    assert (a.noise.kind, a.noise.prediction, a.noise.beta_end, a.noise.to_one) == ("ddpm", "epsilon", .0195, False) and a.scaling > 0


def test_conditions_are_made_once_each_by_itself(conditioner):
    both, alone = conditioner.text(["a ball", "a low ball bounces on steel"]), conditioner.text(["a ball"])
    assert torch.allclose(both.more["audioldm2.generated"][:1], alone.more["audioldm2.generated"], atol=1e-6)
    assert both.more["audioldm2.t5_mask"].sum(1).tolist() == [3, 7] and both.more["audioldm2.t5"].shape[:2] == (2, 7)
    two = conditioner.image(torch.cat([picture(), 255 - picture()]))
    assert torch.allclose(two.index(0).more["svd.latent"], conditioner.image(picture()).more["svd.latent"], atol=1e-5)
    assert two.more["svd.embedding"].shape == (2, 1, 24)


def test_the_cache_keeps_what_they_said(folders, conditioner, tmp_path):
    from jointdit.data.cache import CacheSettings, build_cache
    from jointdit.data.dataset import BatchSampler, LatentDataset
    from jointdit.data.media import write_video
    from jointdit.toyworld import write_dataset
    write_dataset(tmp_path/"clips", 2, 1, write_video=write_video)
    build_cache(CacheSettings(data_root=str(tmp_path/"clips"), cache_dir=str(tmp_path/"cache"), seconds=.5, video_vae_path=str(folders[0]/"vae"), audio_vae_path=str(folders[1]/"vae"),
                              clip=dict(experts=[str(f) for f in folders]), workers=0))
    data = LatentDataset(tmp_path/"cache")
    b = BatchSampler(data, 2).batch(0)
    assert b["t_ctx"].more["audioldm2.generated"].shape == (2, 8, 24) and b["i_ctx"].more["svd.latent"].shape == (2, 4, 8, 8)
    assert data.absent_text.more["audioldm2.t5_mask"].sum() == 1
    assert data.index["recipe"]["text_encoder"] == conditioner.fingerprint


def test_from_clips_to_a_clip_and_again(folders, tmp_path):
    "Cache, Stage A, sampling with a picture, card and replay: the commands of the native model, with published experts."
    from jointdit.data.cache import CacheSettings, build_cache
    from jointdit.data.media import write_video
    from jointdit.sample.infer import generate, load_kit, prepare, replay
    from jointdit.sample.request import InferSettings
    from jointdit.toyworld import make_clip, write_dataset
    from jointdit.train.stage import train_stage
    from jointdit.train.trainer import TrainSettings
    from PIL import Image
    write_dataset(tmp_path/"clips", 2, 1, write_video=write_video)
    codecs = dict(video_vae_path=str(folders[0]/"vae"), audio_vae_path=str(folders[1]/"vae"))
    clip, cpu = dict(experts=[str(f) for f in folders]), dict(device="cpu", dtype="fp32", threads=1)
    build_cache(CacheSettings(data_root=str(tmp_path/"clips"), cache_dir=str(tmp_path/"cache"), seconds=.5, clip=clip, workers=0, runtime=cpu, **codecs))
    out = dict(ckpt_root=str(tmp_path/"ckpt"), log_root=str(tmp_path/"logs"), eval_clips=0, samples=0, tensorboard=False)
    experts = {f"expert_{s}": dict(folder=str(f)) for s, f in zip("va", folders)}
    a = train_stage(TrainSettings(data=dict(cache_dir=str(tmp_path/"cache"), batch_size=2), max_steps=1, runtime=cpu, groups=[dict(match="joint", lr=1e-3), dict(match="cond", lr=1e-3)],
                                  model=dict(width_v=32, width_a=32, heads=2, head_dim=16, n_text=24, n_image=8, cond_width=16) | experts, output=out))
    Image.fromarray(make_clip(1).frames[0]).save(tmp_path/"first.png")
    s = InferSettings(ckpt=str(a.checkpoint), prompt="a ball", negative_prompt="low ball on steel", steps=2, out_dir=str(tmp_path/"out"), clip=clip | dict(image_path=str(tmp_path/"first.png")),
                      runtime=cpu, guidance=dict(weight_neg_txt=.5, weight_img=[0, 2]), **codecs)
    kit = load_kit(s)
    job = prepare(s, kit)
    assert {"audioldm2.t5.absent"} <= set(job.text.more) & set(job.negative.more) and any("does not hear" in n for n in job.notes)
    r = generate(s, kit, say=lambda line: None)[0]
    assert len(r.frames) == 6 and len(r.wave) == 8000 and r.card["evaluations"] > 2 and r.card["settings"]["guidance"]["weight_img"] == [0., 2.]
    assert (replay(r.card_path, tmp_path/"again", say=lambda line: None).frames == r.frames).all()
