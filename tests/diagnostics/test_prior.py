"""`check_prior` names the mistake that was planted, and none where there is none.

The priors are exact: networks made of the denoiser of a Gaussian over small pictures, so that the right reading is the
one of least expected error, and the only randomness is that of 32 pictures and of the noise.
"""

import math

import pytest
import torch

from midguide.cli.commands.check_prior import photographs
from midguide.diagnostics.prior import check_prior, network_and_data
from midguide.diffusion.kernels import eps_from_x0
from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow, make_schedule
from midguide.errors import DataError, ShapeError
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.loading import load_prior
from midguide.priors.network import NetworkDenoiser

SHAPE = (3, 6, 6)
NAMES = ("vp-linear", "vp-cosine", "vp-scaled-linear", "vp-scaled-linear:0.00085,0.012", "edm", "flow")
SCHEDULES = {name: make_schedule(name) for name in NAMES}


def pictures(low=-1.0, high=1.0):
    """Smooth pictures whose channels differ in mean and contrast, nearly all values inside the range."""
    place = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).double()
    smooth = torch.exp(-torch.cdist(place, place).square() / 18)
    contrast = torch.tensor([0.35, 0.2, 0.1]).double()
    between = torch.outer(contrast, contrast) * (0.7 + 0.3 * torch.eye(3))
    mean = torch.tensor([0.4, 0.0, -0.4]).double()[:, None, None].expand(SHAPE)
    half, centre = (high - low) / 2, (high + low) / 2
    return Gaussian(centre + half * mean, half**2 * torch.kron(between, smooth).double() + 1e-7 * torch.eye(108))


def network(exact, schedule, prediction, *, label=None, scale=1.0):
    """The exact denoiser as a network that is told `scale` times the schedule's label."""
    times = schedule.times(1000)
    labels = torch.tensor([schedule.label(t) for t in times], dtype=torch.float64)

    def run(x, told):
        t = times[int((labels - float(told[0]) / scale).abs().argmin())]
        level, x0 = schedule.level(t), exact_at(exact, schedule, x, t)
        eps = eps_from_x0(x, x0, level)
        return {"eps": eps, "x0": x0, "v": level.alpha * eps - level.sigma * x0, "flow": eps - x0}[prediction]

    return run


def exact_at(exact, schedule, x, t):
    exact.schedule = schedule
    return exact(x.double(), t).to(x.dtype)


def declared(run, schedule, prediction, **settings):
    return NetworkDenoiser(run, schedule, prediction, SHAPE, **settings)


def found(denoiser, images):
    return [finding.kind for finding in check_prior(denoiser, images).findings]


IMAGES = pictures().sample(32)
LINEAR = DiscreteVP.linear()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
def test_right_conventions_are_not_doubted(prediction, name):
    schedule = SCHEDULES[name]
    report = check_prior(declared(network(pictures(), schedule, prediction), schedule, prediction), IMAGES)
    assert report.findings == ()
    assert report.next_best[1] > 1.0
    errors = [row.error for row in report.levels]
    assert errors == sorted(errors)  # the less noise, the better
    assert errors[0] < 0.05 * errors[-1]
    assert all(row.error < row.linear for row in report.levels)
    assert report.levels[-1].noise == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("true", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("said", ["eps", "v", "x0", "flow"])
def test_wrong_prediction_is_named_each_way(true, said):
    report = check_prior(declared(network(pictures(), LINEAR, true), LINEAR, said), IMAGES)
    if true == said:
        assert report.findings == ()
    else:
        (finding,) = report.findings
        article = "an" if true in ("eps", "x0") else "a"
        assert finding.message == f"errors fit {article} {true}-prediction, not {said}"
        assert finding.gain > 1.5


def latents(between):
    """Latents of unit variance, unbounded; neighbors are correlated, the more the larger `between` is."""
    place = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).double()
    smooth = torch.exp(-torch.cdist(place, place).square() / 8)
    own = torch.eye(108).double()
    return Gaussian(
        torch.zeros(SHAPE).double(), between * torch.kron(torch.eye(3).double(), smooth) + (1 - between) * own
    )


def schedule_findings(law, limits, prediction, true, said):
    denoiser = declared(network(law, SCHEDULES[true], prediction), SCHEDULES[said], prediction, value_range=limits)
    return [finding.message for finding in check_prior(denoiser, law.sample(32)).findings]


@pytest.mark.parametrize("said", NAMES)
@pytest.mark.parametrize("true", NAMES)
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("kind", ["pictures", "latents"])
def test_every_wrong_schedule_is_named_and_no_right_one(kind, prediction, true, said):
    law, limits = (pictures(), (-1.0, 1.0)) if kind == "pictures" else (latents(0.95), None)
    wanted = [f"errors fit the schedule {true}, not the one declared"] if true != said else []
    assert schedule_findings(law, limits, prediction, true, said) == wanted


@pytest.mark.parametrize("said", NAMES)
@pytest.mark.parametrize("true", NAMES)
def test_latents_that_are_white_noise_tell_nothing_of_the_schedule_of_a_v_prediction(true, said):
    """`E[v | x_t] = 0` at all times where data are standard normal: a network that never looks at its label."""
    assert schedule_findings(latents(0.0), None, "v", true, said) == []


RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)]


@pytest.mark.parametrize("true", RANGES)
@pytest.mark.parametrize("said", RANGES)
def test_wrong_value_range_of_the_network_is_named_each_way(true, said):
    schedule = EDM(0.002, 1000.0)
    run = network(pictures(*true), schedule, "eps")
    images = pictures(*said).sample(32).clamp(*said)
    findings = check_prior(declared(run, schedule, "eps", value_range=said), images).findings
    show = "[{:g}, {:g}]".format
    wanted = [f"errors fit data in {show(*true)}, declared {show(*said)}"] if true != said else []
    assert [finding.message for finding in findings] == wanted


@pytest.mark.parametrize(("given", "shown"), [((0.0, 1.0), "[0, 1]"), ((0.0, 255.0), "[0, 255]")])
def test_images_in_another_range_than_declared_are_named_and_nothing_else_is(given, shown):
    images = (given[0] + (IMAGES.clamp(-1, 1) + 1) * (given[1] - given[0]) / 2).float()
    findings = check_prior(declared(network(pictures(), LINEAR, "eps"), LINEAR, "eps"), images).findings
    assert [finding.message for finding in findings] == [f"values look like {shown}, declared [-1, 1]"]


def test_swapped_channels_are_named():
    exact = network(pictures(), LINEAR, "eps")
    findings = check_prior(declared(lambda x, t: exact(x.flip(1), t).flip(1), LINEAR, "eps"), IMAGES).findings
    assert [finding.kind for finding in findings] == ["channels"]
    assert "BGR" in findings[0].message


@pytest.mark.parametrize(("by", "word"), [(1, "smaller"), (-1, "larger")])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_index_off_by_one_is_named_with_its_direction(prediction, by, word):
    run = network(pictures(), LINEAR, prediction)
    wrong = declared(run, LINEAR, prediction, label=lambda t: t - 1 + by)
    (finding,) = check_prior(wrong, IMAGES).findings
    assert finding.kind == "offset"
    assert f"{word} by one" in finding.message


@pytest.mark.parametrize(
    ("schedule", "scale", "words"),
    [(LINEAR, 1e-3, "divided by 1000"), (RectifiedFlow(), 1e3, "multiplied by 1000")],
)
def test_time_off_by_a_factor_is_named(schedule, scale, words):
    run = network(pictures(), schedule, "eps", scale=scale)
    (finding,) = check_prior(declared(run, schedule, "eps"), IMAGES).findings
    assert finding.kind == "label"
    assert words in finding.message


def test_edm_network_told_sigma_in_place_of_its_logarithm_is_named():
    inner = network(pictures(), EDM(), "x0")
    wrong = declared(lambda x, noise: inner(x, (4 * noise.double()).exp()), EDM(), "x0")
    (finding,) = check_prior(wrong, IMAGES).findings
    assert "ln(sigma) / 4" in finding.message


def test_a_network_that_refuses_labels_that_it_does_not_know_is_checked_all_the_same():
    exact = network(pictures(), LINEAR, "v")

    def strict(x, t):
        return exact(x, torch.arange(1000)[t.long()])  # an IndexError beyond 999

    (finding,) = check_prior(declared(strict, LINEAR, "eps"), IMAGES).findings
    assert "a v-prediction" in finding.message


def test_the_schedule_of_a_network_that_takes_integers_only_is_named():
    exact = network(pictures(), SCHEDULES["vp-cosine"], "eps")

    def strict(x, t):
        return exact(x, torch.arange(1000)[t])  # an IndexError where t is not an integer

    wrong = declared(strict, LINEAR, "eps", label=lambda t: int(t) - 1)
    (finding,) = check_prior(wrong, IMAGES).findings
    assert "the schedule vp-cosine" in finding.message


def test_dropout_left_on_is_named():
    exact = network(pictures(), LINEAR, "eps")
    generator = torch.Generator().manual_seed(0)

    def dropping(x, t):
        out = exact(x, t)
        return out * (1 + 1e-3 * torch.randn(out.shape, generator=generator))

    assert found(declared(dropping, LINEAR, "eps"), IMAGES) == ["random"]


@pytest.mark.parametrize(("used", "words"), [("last", "average (EMA)"), ("averaged", "last weights")])
def test_weights_that_fit_worse_than_the_others_of_their_file_are_named(used, words):
    """The worse ones are those of a network that has learned half the contrast of the pictures."""
    good, bad = (declared(network(law, LINEAR, "eps"), LINEAR, "eps") for law in (pictures(), pictures(-0.5, 0.5)))
    bad.provenance = {"weights": used}
    (finding,) = check_prior(bad, IMAGES, other=good).findings
    assert finding.kind == "weights"
    assert finding.message.startswith(f"errors fit the {words}")
    good.provenance = {"weights": used}
    assert check_prior(good, IMAGES, other=bad).findings == ()


@pytest.mark.parametrize("scale", [5.0, 0.2])
def test_a_forgotten_scale_of_latents_is_named(scale):
    """A network of latents of unit variance, and an autoencoder that does not bring them there, then one that does."""
    exact = Gaussian(torch.zeros(SHAPE).double(), torch.linspace(0.2, 1.8, 108).double().diag())
    latent = declared(network(exact, LINEAR, "eps"), LINEAR, "eps", value_range=None)
    for factor, kinds in ((1.0, ["scale"]), (1.0 / scale, [])):
        coder = NetworkAutoencoder(lambda x: x, lambda z: z, SHAPE, SHAPE, scale=factor)
        network_and_latents = network_and_data(LatentPrior(latent, coder), scale * exact.sample(32))
        assert found(*network_and_latents) == kinds
    finding = check_prior(latent, scale * exact.sample(32)).findings[0]
    times = float(finding.message.partition("times ")[2].partition(",")[0])
    assert times == pytest.approx(1 / scale, rel=0.05)  # the spread of 32 draws of 108 numbers errs by 1 %


def test_a_variance_that_is_not_split_off_is_named():
    exact = network(pictures(), LINEAR, "eps")
    both = lambda x, t: torch.cat([exact(x, t), torch.zeros_like(x)], dim=1)  # noqa: E731
    with pytest.raises(ShapeError, match="learned_variance=True"):
        check_prior(declared(both, LINEAR, "eps"), IMAGES)
    assert found(declared(both, LINEAR, "eps", learned_variance=True), IMAGES) == []


def test_an_untrained_network_is_named():
    assert found(declared(lambda x, t: 0 * x, LINEAR, "eps"), IMAGES) == ["untrained"]


def test_one_dimensional_priors_are_checked_as_well():
    exact = Gaussian(torch.zeros(8).double(), 1.0)
    run = network(exact, LINEAR, "v")
    wrong = NetworkDenoiser(run, LINEAR, "eps", (8,), value_range=None)
    assert [f.message for f in check_prior(wrong, exact.sample(256)).findings] == ["errors fit a v-prediction, not eps"]


def test_data_that_cannot_be_measured_on_are_refused():
    prior = declared(network(pictures(), LINEAR, "eps"), LINEAR, "eps")
    with pytest.raises(ShapeError, match="the prior takes"):
        check_prior(prior, torch.zeros(2, 3, 5, 5))
    with pytest.raises(DataError, match="constant"):
        check_prior(prior, torch.zeros(2, *SHAPE))


def test_a_network_that_returns_infinity_is_not_taken_for_a_good_one():
    report = check_prior(declared(lambda x, t: math.nan * x, LINEAR, "eps"), IMAGES)
    assert [finding.kind for finding in report.findings] == ["untrained"]


@pytest.mark.slow
def test_the_shipped_prior_is_read_as_its_card_says_and_wrong_cards_are_noticed():
    """A real network, on the photographs that `midguide check-prior` takes by default."""
    images = photographs((3, 64, 64), (-1.0, 1.0))
    for name in ("faces-64", "faces-64-latent"):
        assert check_prior(*network_and_data(load_prior(name), images)).findings == ()
    (finding,) = check_prior(load_prior("faces-64", prediction="eps"), images).findings
    assert finding.message == "errors fit a v-prediction, not eps"
    for said in ("vp-cosine", "vp-scaled-linear"):
        for name in ("faces-64", "faces-64-latent"):
            (finding,) = check_prior(*network_and_data(load_prior(name, schedule=said), images)).findings
            assert finding.message == "errors fit the schedule vp-linear, not the one declared"
    wrong = load_prior("faces-64", value_range=(0.0, 1.0))
    (finding,) = check_prior(wrong, (images + 1) / 2).findings
    assert finding.message == "errors fit data in [-1, 1], declared [0, 1]"
