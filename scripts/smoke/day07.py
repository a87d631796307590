"Day 7: Stage B starts from Stage A; what is frozen stays, what is tuned moves."
from common import smoke, tiny_run, tiny_settings


def check(folder):
    from jointdit.train.stage import FrozenProof
    from jointdit.train.trainer import train
    a, proof = tiny_run(folder), FrozenProof()
    groups = [dict(match="*.blocks", lr=3e-4), dict(match="*.in", lr=1.5e-4), dict(match="*.out", lr=1.5e-4)]
    b = train(tiny_settings(folder, "B", init=str(a.checkpoint), groups=groups), [proof])
    assert b.step == 3 and proof.moved.get("joint", 0) == 0
    return "frozen: " + ", ".join(g for g, x in proof.moved.items() if not x) + "; moved: " + ", ".join(g for g, x in proof.moved.items() if x)


smoke(check)
