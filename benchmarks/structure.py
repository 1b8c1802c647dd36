"""How the packages import each other, and how deep a command is when it calls the network.

    python benchmarks/structure.py [SRC]

SRC is the folder that holds `midguide`, by default that of this checkout; an older checkout can be measured, too.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

CHAIN = """
import sys, tempfile
from midguide.nn.unet import UNet

chains, forward = [], UNet.forward

def watched(self, *inputs):
    frame, names = sys._getframe(), []
    while frame is not None:
        if "midguide" in frame.f_code.co_filename and frame.f_code.co_name not in ("<module>", "watched"):
            names.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)
        frame = frame.f_back
    chains.append(names[::-1])
    return forward(self, *inputs)

UNet.forward = watched
from midguide.cli import main
with tempfile.TemporaryDirectory() as folder:
    out = sys.stdout
    sys.stdout = sys.stderr
    assert main(["demo", "--samples", "1", "--out", folder + "/demo"]) == 0
    sys.stdout = out
longest = max(chains, key=len)
print(len(longest), " > ".join(longest))
"""


def packages(root: Path) -> dict[str, set[str]]:
    """The packages and files directly under `midguide`, and which of the others each imports, also in functions."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        package = path.relative_to(root).with_suffix("").parts[0]
        own = found.setdefault(package, set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module] if node.module != "midguide" else [f"midguide.{a.name}" for a in node.names]
            own |= {name.split(".")[1] for name in names if name.startswith("midguide.")}
        own.discard(package)
    known = set(found)
    return {package: others & known for package, others in found.items()}


def main() -> None:
    """Print the numbers of a checkout as JSON."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src").resolve()
    graph = packages(source / "midguide")
    pairs = sum(map(len, graph.values()))
    mutual = [(a, b) for a, others in graph.items() for b in others if a < b and a in graph[b]]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", CHAIN], capture_output=True, text=True, check=True, env=environment)
    length, _, chain = run.stdout.strip().partition(" ")
    numbers = {"packages": len(graph), "imports": pairs, "imports both ways": [" and ".join(pair) for pair in mutual]}
    print(json.dumps({**numbers, "calls from demo to the network": int(length), "chain": chain}, indent=2))


if __name__ == "__main__":
    main()
