"""Write README.md from nbs/index.ipynb: its prose as it is, its code as fenced blocks, links made relative to the root."""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def render(notebook: Path) -> str:
    "The Markdown of a notebook: cells whose code starts with `#| hide` are left out, outputs always."
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if not source or source.startswith("#| hide"):
            continue
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    # nbs/ lies one level down: what is ../docs there is docs here, and a day's folder there is nbs/day here
    text = "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((?!\.\./|https?:|#|/)", "](nbs/", text)
    return text.replace("](../", "](").replace('src="../', 'src="')


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render(ROOT / "nbs" / "index.ipynb"), encoding="utf-8")
    sys.exit(0)
