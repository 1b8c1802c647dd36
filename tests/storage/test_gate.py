"""Files from outside are opened through `storage/outside`; whatever opens one otherwise is named here, and why."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import midguide

SOURCE = Path(midguide.__file__).parent
GATE = "storage/outside.py"

METHODS = {"open", "read_bytes", "read_text"}
"""Of a path."""

OWN_METHODS = re.compile(r"_?[A-Z]\w*|gate|cls|webbrowser")
"""Whose methods of these names are no path's: gates, which are constants in capitals, and classes of this package."""

FUNCTIONS = {
    "open", "os.open", "io.open", "io.FileIO", "json.load", "tomllib.load", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "torch.load", "safe_open", "load_file", "Image.open", "zipfile.ZipFile", "ZipFile",
    "tarfile.open", "gzip.open", "h5py.File", "h5netcdf.File", "zarr.open", "zarr.open_group", "loadmat", "whosmat",
    "np.load", "np.memmap", "np.fromfile", "np.loadtxt", "np.genfromtxt", "pd.read_csv", "pq.read_table",
    "wfdb.rdheader", "wfdb.rdrecord", "edfio.read_edf", "edfio.read_bdf", "ast.parse",
}  # fmt: skip
"""Functions of libraries that open or decode a file, or take one."""

LAST = {name.rpartition(".")[2] for name in FUNCTIONS} | METHODS

GIVEN = "it is given what the gate has opened"
CHECKED = "the library opens it by its path, which the gate has checked"
OWN = "a file of this package"
SYSTEM = "a file of the system"
CODE = "code that the user names, which is run anyway"
WRITES = "opened to be written"
FETCHED = "what was fetched from an address of this package, whose digest is known"
PROCESSES = "bytes between processes of one run"

EXCEPTIONS = {
    "catalogue/plugins.py": ({".read_bytes", "load_file"}, CODE),
    "catalogue/presets.py": ({".read_text"}, OWN),
    "cli/failures.py": ({"os.open"}, WRITES),
    "cli/output.py": ({".read_text"}, SYSTEM),
    "domains/ecg/formats/archive.py": ({"zipfile.ZipFile"}, "the type of an argument"),
    "domains/ecg/formats/base.py": ({".open"}, "the method of a format, not of a path"),
    "domains/ecg/formats/edf.py": ({"edfio.read_bdf", "edfio.read_edf"}, CHECKED),
    "domains/ecg/formats/hdf5.py": ({"h5py.File"}, CHECKED),
    "domains/ecg/formats/matlab.py": ({"loadmat"}, GIVEN),
    "domains/ecg/formats/numpy_files.py": ({"np.memmap"}, "its shape and place are those that the gate has read"),
    "domains/ecg/formats/tables.py": ({"np.loadtxt"}, GIVEN),
    "domains/ecg/formats/wfdb.py": ({"wfdb.rdheader", "wfdb.rdrecord"}, CHECKED),
    "inference/cost.py": ({".read_text"}, SYSTEM),
    "inference/stored.py": ({"h5netcdf.File", "zarr.open_group"}, CHECKED),
    "inference/stream.py": ({".open", "h5netcdf.File", "zarr.open_group"}, f"{CHECKED}; or {WRITES}"),
    "priors/formats/python_file.py": ({".read_text"}, CODE),
    "storage/code.py": ({".read_bytes", "ast.parse"}, CODE),
    "storage/files.py": ({".open", "os.open"}, "to be written, flushed, or digested once the gate has checked it"),
    "storage/hub.py": ({".open", ".read_text", "open", "os.open", "zipfile.ZipFile"}, FETCHED),
    "storage/machine.py": ({".read_text"}, SYSTEM),
    "storage/pickles.py": ({".open", "zipfile.ZipFile"}, CHECKED),
    "storage/pictures.py": ({"Image.open"}, GIVEN),
    "storage/tensors.py": ({"safe_open", "torch.load"}, CHECKED),
    "studies/benchmark.py": ({".read_text"}, OWN),
    "studies/runners/base.py": ({"pickle.loads"}, PROCESSES),
    "studies/runners/freight.py": ({".read_bytes", "pickle.Unpickler"}, PROCESSES),
    "testing/pieces.py": ({"pickle.loads"}, "what it has just written"),
    "training/page.py": ({".open"}, WRITES),
    "web/page.py": ({".read_text"}, OWN),
}
"""By file: what opens one past the gate, and why it may."""


def opened(tree: ast.AST) -> set[str]:
    """What a file of source has that opens files: functions of libraries, and methods of paths."""
    nodes = list(ast.walk(tree))
    called = {node.func for node in nodes if isinstance(node, ast.Call)}
    found = set()
    for node in nodes:
        method = getattr(node, "attr", getattr(node, "id", ""))
        if method in LAST:
            owner = ast.unparse(node).rpartition(".")[0].rpartition(".")[2]
            name = f"{owner}.{method}" if owner else method
            if name in FUNCTIONS and (owner or node in called):
                found.add(name)
            elif node in called and owner and method in METHODS and not OWN_METHODS.fullmatch(owner):
                found.add(f".{method}")
    return found


def test_outside_data_are_opened_through_the_gate_or_with_a_reason() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place != GATE and (calls := opened(ast.parse(path.read_bytes()))):
            found[place] = calls
    assert found == {place: calls for place, (calls, _) in EXCEPTIONS.items()}


def test_what_opens_a_file_past_the_gate_is_seen() -> None:
    past = ["open(p)", "Path(p).open()", "np.load(p)", "json.load(f)", "Image.open(p)", "p.read_text()"]
    past += ["read = edfio.read_edf", "zipfile.ZipFile(p)", "h5py.File(p)", "torch.load(p)", "self.path.read_bytes()"]
    assert [text for text in past if not opened(ast.parse(text))] == []
    through = ["IMAGE.open(p)", "_MASK.open(p)", "STUDY.json(p)", "json.loads(text)", "Store.open(p)", "gate.open(p)"]
    assert [text for text in through if opened(ast.parse(text))] == []
