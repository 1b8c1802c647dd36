"""A page to play with: hide parts of a picture with the pointer, and watch posterior samples come.

The server listens on the loopback interface only. Every address starts with a random token, and a request that names
another host is refused: pages of other sites cannot reach it.
"""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.catalogue.shown import cut
from midguide.data.examples import portrait
from midguide.data.glyphs import glyphs
from midguide.data.images import load_image, save_png
from midguide.diffusion.schedules import Time
from midguide.errors import ConfigError, MidguideError, UnsupportedProblem
from midguide.inference.loop import sample
from midguide.inference.observers import Event
from midguide.operators.base import OPERATORS
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem
from midguide.samplers.auto import reason_of
from midguide.samplers.base import AUTO, SAMPLERS, make_sampler
from midguide.studies.kinds.setup import Setup
from midguide.web.page import filled

DRAWN = "mask-file"
"""The operator of what is hidden by hand."""
LIMIT = 2**20
"""Bytes of a request."""
MOST = {"samples": 16, "steps": 1000}
HOST = "127.0.0.1"


class Stopped(Exception):
    """Somebody does not want these draws any more."""


class Watched(Wrapped):
    """A prior whose last answers can be looked at while a sampler runs."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.last: Tensor | None = None

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        answer = self.inner(x, t)
        self.last = answer.detach()
        return answer

    def record(self) -> dict[str, Any]:
        return self.inner.record()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a page asks for.

    Raises:
        ConfigError: If a number is not in its range.
    """

    picture: int = 0
    mask: str = ""
    operator: str = DRAWN
    sigma: float = 0.05
    sampler: str = AUTO
    steps: int | None = None
    samples: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value <= most):
                raise ConfigError(f"{name} must be an integer from 1 to {most}, got {cut(repr(value))}")
        if type(self.seed) is not int or type(self.picture) is not int or self.picture < 0:
            raise ConfigError("seed and picture are integers", hint="for example 0")
        if not isinstance(self.sigma, int | float) or not 0 < self.sigma < float("inf"):
            raise ConfigError(f"sigma must be positive, got {cut(repr(self.sigma))}", hint="for example 0.05")
        if self.operator not in OPERATORS or not (self.sampler == AUTO or self.sampler in SAMPLERS):
            raise ConfigError("no such operator or sampler", hint="choose one of the lists")


@dataclass
class Job:
    """One run and how far it is; the page asks for it again and again."""

    total: int = 0
    done: int = 0
    stop: bool = False
    finished: bool = False
    error: str = ""
    note: str = ""
    command: str = ""
    verdict: list[dict[str, str]] = field(default_factory=list)
    pictures: Tensor | None = None
    answer: Tensor | None = None
    watched: Watched | None = None

    def start(self, total: int, done: int) -> None:
        self.total = total

    def step(self, event: Event) -> None:
        self.done = event.done
        if self.watched is not None:
            self.pictures = self.watched.last
        if self.stop:
            raise Stopped

    def end(self) -> None:
        """Do not go on."""
        self.stop = True


class Playground:
    """A prior of images, its pictures, and the run that goes on.

    Args:
        name: of the prior, as `--prior` takes it.
        prior: of images.
        folder: where the picture and the mask of the last run lie, so that its command can be repeated.
    """

    def __init__(self, name: str, prior: Denoiser, folder: Path) -> None:
        shape = prior.signal_shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UnsupportedProblem(
                f"`{name}` has signals of shape {shape}, and `play` paints over images of 1 or 3 channels",
                hint="take a prior of images, such as `faces-64`; `midguide view RESULT` shows draws of other signals",
            )
        if prior.signal_range is None:
            raise UnsupportedProblem(f"`{name}` states no value range", hint="set `prior.value_range`, as (-1, 1)")
        self.name, self.prior, self.folder = name, prior, folder
        self.range = prior.signal_range
        self.job = Job(finished=True)
        self._pictures: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def picture(self, number: int) -> Tensor:
        """A picture to hide parts of, shape (C, H, W): a glyph, a portrait, or a sample of the prior itself."""
        with self._lock:
            if number not in self._pictures:
                self._pictures[number] = self._made(number)
            return self._pictures[number]

    def _made(self, number: int) -> Tensor:
        shape = self.prior.signal_shape
        if self.name == "glyphs-32":
            return glyphs(torch.tensor([number]))[0]
        if self.name.startswith("faces-64") and number == 0:
            return portrait(shape[-1])[0]
        drawn = sample(
            make_sampler("unconditional", {"steps": 50}), Problem.unobserved(self.prior), seed=number, progress=False
        )
        return drawn.draws[0, 0].clamp(*self.range)

    def about(self, number: int) -> str:
        """What a picture is, in one sentence."""
        if self.name == "glyphs-32":
            return "A letter or digit that the prior has never seen."
        if self.name.startswith("faces-64") and number == 0:
            return "A portrait that the prior has never seen."
        return f"A draw of the prior itself, seed {number}."

    def begin(self, asked: Asked) -> None:
        """Stop the run that goes on, and start another.

        Raises:
            MidguideError: If the problem or the sampler is impossible.
        """
        self.job.end()
        job = Job()
        watched = Watched(self.prior)
        problem = self._problem(asked, watched)
        changes = {} if asked.steps is None else {"steps": asked.steps}
        sampler = make_sampler(asked.sampler, changes, problem)
        job.note = f"{SAMPLERS.name_of(sampler)}, {sampler.steps} steps" + (
            f"; for {reason}" if (reason := reason_of(sampler)) else ""
        )
        job.command, job.watched, self.job = self._command(asked), watched, job
        threading.Thread(
            target=_run, args=(job, partial(self._draw, job, sampler, problem, asked)), daemon=True
        ).start()

    def _draw(self, job: Job, sampler: Any, problem: Problem, asked: Asked) -> None:
        result = sample(sampler, problem, asked.samples, seed=asked.seed, observers=[_Watch(job)], progress=False)
        job.answer = result.resampled().draws[0]
        job.verdict = [
            {"check": each.check, "line": each.line(), "advice": each.advice} for each in result.check().judged
        ]

    def _problem(self, asked: Asked, prior: Denoiser) -> Problem:
        """The problem of the picture and the mask as they lie in the folder, so that the command has the same."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = self.prior.signal_shape
        save_png(self.folder / "picture.png", self.picture(asked.picture), self.range)
        settings: dict[str, object] = {}
        if asked.operator == DRAWN:
            save_png(self.folder / "mask.png", _mask(asked.mask, shape), (0.0, 1.0))
            settings = {"path": str(self.folder / "mask.png")}
        setup = Setup(
            operator=asked.operator, operator_settings=settings, operator_seed=asked.seed,
            noise_settings={"sigma_y": float(asked.sigma)},
        )  # fmt: skip
        truth = load_image(self.folder / "picture.png", shape, value_range=self.range)
        return setup.simulate(prior, truth, seed=asked.seed)

    def _command(self, asked: Asked) -> str:
        """The command line that draws the same."""
        words = ["midguide", "reconstruct", str(self.folder / "picture.png"), "--prior", self.name]
        words += ["--operator", asked.operator]
        if asked.operator == DRAWN:
            words += ["--operator-set", f"path={self.folder / 'mask.png'}"]
        words += ["--sigma", f"{asked.sigma:g}", "--sampler", asked.sampler]
        words += [] if asked.steps is None else ["--steps", str(asked.steps)]
        return shlex.join([*words, "--samples", str(asked.samples), "--seed", str(asked.seed)])

    def told(self) -> dict[str, Any]:
        """How far the run is, as JSON."""
        job = self.job
        known = {
            name: getattr(job, name) for name in ("total", "done", "finished", "error", "note", "command", "verdict")
        }
        pictures, coder = job.pictures if job.answer is None else job.answer, self.prior.autoencoder
        if pictures is not None and job.answer is None and coder is not None:
            with torch.no_grad():
                pictures = coder.decode(pictures)  # a sampler sees latents
        return {**known, "pictures": [] if pictures is None else [pixels(each, self.range) for each in pictures]}

    def settings(self) -> dict[str, Any]:
        """What the page can choose from, as JSON."""
        operators = [name for name, entry in OPERATORS.items() if entry.origin == "midguide" and not entry.required()]
        channels, height, width = self.prior.signal_shape
        samplers = [AUTO, *(name for name in SAMPLERS if name != "unconditional")]
        size = {"channels": channels, "height": height, "width": width}
        return {"prior": self.name, "operators": [DRAWN, *operators], "samplers": samplers, **size}


class _Watch:
    """The observer of a job."""

    def __init__(self, job: Job) -> None:
        self.start, self.step = job.start, job.step

    def stop(self) -> None:
        """Nothing to close."""


def _run(job: Job, draw: Callable[[], None]) -> None:
    """Draw, and keep what went wrong as one line."""
    try:
        draw()
    except Stopped:
        job.error = "stopped"
    except MidguideError as error:
        job.error = f"{error.message}" + (f" ({error.hint})" if error.hint else "")
    except (RuntimeError, MemoryError, ArithmeticError) as error:
        job.error = cut(str(error), 200)
    job.finished = True


def _mask(text: str, shape: tuple[int, ...]) -> Tensor:
    """What is measured, as an image (1, H, W) of zeros and ones.

    Raises:
        ConfigError: If it is not of the size of the picture, or hides everything.
    """
    try:
        values = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ConfigError("the mask is not base64") from error
    if len(values) != shape[1] * shape[2]:
        raise ConfigError(f"the mask has {len(values)} pixels, the picture {shape[1] * shape[2]}")
    mask = torch.tensor(list(values), dtype=torch.float32).reshape(1, *shape[1:]).clamp(0, 1)
    if not bool(mask.any()):
        raise ConfigError("the mask hides everything", hint="leave something to see")
    return mask


def pixels(image: Tensor, value_range: tuple[float, float]) -> str:
    """An image (C, H, W) as bytes (H, W, C) in base64."""
    low, high = value_range
    shades = (255 * (image.detach().cpu().float() - low) / (high - low)).clamp(0, 255).round().to(torch.uint8)
    return base64.b64encode(shades.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()


class Server(ThreadingHTTPServer):
    """Serves one playground on the loopback interface.

    Args:
        playground: what is played with.
        port: 0 for a free one.

    Raises:
        ConfigError: If the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, playground: Playground, port: int) -> None:
        self.playground, self.token = playground, secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be used: {error}", hint="--port 0 takes a free one") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet where a browser has gone; anything else is a defect."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 10

    def do_GET(self) -> None:
        place, query = self._place()
        play = self.server.playground
        match place:
            case "":
                data = json.dumps(play.settings()).replace("<", "\\u003c")
                self._answer(
                    filled("play", title=f"midguide play: {play.name}", data=data, connect="'self'"), "text/html"
                )
            case "state":
                self._json(play.told())
            case "picture" if query.isdecimal() and len(query) < 10:
                self._json(self._picture(int(query)))
            case _:
                self._refuse()

    def do_POST(self) -> None:
        place, _ = self._place()
        length = self.headers.get("Content-Length", "")
        if place == "stop":
            self.server.playground.job.end()
            self._json({})
        elif place == "draw" and length.isdecimal() and int(length) <= LIMIT:
            self._json(self._begin(self.rfile.read(int(length))))
        else:
            self._refuse()

    def _picture(self, number: int) -> Mapping[str, str]:
        play = self.server.playground
        try:
            return {"pixels": pixels(play.picture(number), play.range), "about": play.about(number)}
        except MidguideError as error:
            return {"error": error.message + (f" ({error.hint})" if error.hint else "")}

    def _begin(self, body: bytes) -> Mapping[str, str]:
        try:
            self.server.playground.begin(Asked(**json.loads(body)))
        except MidguideError as error:
            return {"error": error.message + (f" ({error.hint})" if error.hint else "")}
        except (ValueError, TypeError) as error:
            return {"error": f"this is not a request: {cut(str(error))}"}
        return {}

    def _place(self) -> tuple[str | None, str]:
        """What is asked for; None where the token or the host is another."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        path, _, query = self.path.partition("?")
        _, token, *rest = [*path.split("/"), ""]
        known = secrets.compare_digest(token.encode(), self.server.token.encode()) and host in (HOST, "localhost")
        return ("/".join(rest).strip("/") if known else None), query

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value), "application/json")

    def _answer(self, text: str, kind: str, status: int = 200) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self) -> None:
        self._answer("not found\n", "text/plain", 404)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the address."""
