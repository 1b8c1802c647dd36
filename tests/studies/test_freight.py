"""A job travels with the files that it names; on a machine without them it has the same rows."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace

import pytest

from midguide.errors import ConfigError
from midguide.studies.engine.units import batches
from midguide.studies.runners import freight
from midguide.studies.runners.base import Job
from midguide.studies.runners.cluster import Cluster
from midguide.studies.runners.freight import Freight, unpack
from midguide.studies.runners.remote import Storage, Worker, identity
from midguide.studies.spec.study import load_study


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine's folder of files that have come to it."""
    monkeypatch.setattr(freight, "cache_folder", lambda: tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def values(rows):
    return [{**row, "seconds": 0, "peak_memory_mib": 0} for unit in rows for row in unit]


def test_files_of_a_job_come_once_and_by_their_content(faces, prior, photographs, tmp_path, elsewhere):
    copy = shutil.copy(prior, tmp_path / "copy.safetensors")
    faces.write_text(faces.read_text().replace(str(prior), str(copy)))
    study = load_study(faces)
    sent, fetched = [], []
    packer = Freight(lambda contents: sent.append(contents) or contents)
    jobs = [Job(units=batch, code=study.code) for batch in batches(study.units, 3)[:3]]
    here = [job.run() for job in jobs]
    packed = [packer.pack(job) for job in jobs]
    (tmp_path / "copy.safetensors").unlink()
    shutil.rmtree(photographs)
    there = [unpack(data, needed, lambda found: fetched.append(found) or found) for data, needed in packed]
    assert [values(job.run()) for job in there] == [values(rows) for rows in here]
    assert len(sent) == len(fetched) == len(list(elsewhere.iterdir())) == 2  # the prior, and the photographs
    assert all(unit.problem.prior.startswith(str(elsewhere)) for job in there for unit in job.units)


def test_python_files_come_with_their_neighbors(tmp_path, tiny, elsewhere):
    (tmp_path / "beside.py").write_text("STEPS = 3\n")
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nfrom beside import STEPS\n"
        "from midguide.samplers.unconditional import Unconditional\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Unconditional):\n    steps: int = STEPS\n"
    )
    tiny.write_text(tiny.read_text().replace('"dps"', f'"{tmp_path}/own.py:Mine"').replace(", guidance = 0.1", ""))
    study = load_study(tiny)
    job = Job(units=[unit for unit in study.units if unit.sampler_label == "DPS"][:1], code=study.code)
    here = values(job.run())
    data, needed = Freight(lambda contents: contents).pack(job)
    there = unpack(data, needed, lambda found: found)
    assert values(there.run()) == here
    assert all(path.startswith(str(elsewhere)) for path in there.code)


def test_worker_without_the_folder_of_draws_sends_them_back(tiny, tmp_path, elsewhere):
    unit = load_study(tiny).units[1]
    packed = Freight(lambda contents: contents).pack(Job(units=[unit]))
    away = Worker("cpu", Storage(kept=tmp_path / "draws", shared=tmp_path / "nowhere"), lambda found: found)
    name, who, sees = away.about()
    assert (who, sees) == (identity(), False)
    answer = away.run(*packed, {})
    assert list(answer.draws) == [unit.draws_address]
    assert not (tmp_path / "draws").exists()
    again = away.run(
        *Freight(lambda contents: contents).pack(Job(units=[replace(unit, metrics=("mean_error",))])), answer.draws
    )
    assert again.draws == {}  # measured without sampling
    assert again.rows[0][0]["network_forwards"] == answer.rows[0][0]["network_forwards"]


def test_how_another_machine_differs_is_said():
    here = identity()
    assert here.differs(here) == ""
    assert "midguide 0.0" in here.differs(here._replace(version="0.0"))
    assert "Python 2.7" in here.differs(here._replace(python="2.7"))
    assert "other code" in here.differs(here._replace(code="0"))


def test_address_that_does_not_answer_is_one_line():
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for place in (address, f"ray://{address}"):
            with pytest.raises(ConfigError, match=f"nothing answers at {place}"):
                Cluster(place, None)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Cluster("nowhere", None)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray") as caught:
        Cluster("", None)
    assert "midguide[ray]" in caught.value.hint
