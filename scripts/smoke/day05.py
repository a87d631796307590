"Day 5: three steps of Stage A, then two more after a restart."
from common import smoke, tiny_run, tiny_settings


def check(folder):
    from jointdit.train.stage import train_stage
    first = tiny_run(folder)
    more = train_stage(tiny_settings(folder, steps=5))
    assert first.step == 3 and more.step == 5 and more.checkpoint.is_file()
    return f"trained to step {first.step}, resumed to step {more.step}: {more.checkpoint.name}"


smoke(check)
