"""The bodies that read published weights, against the implementations that these weights were published with.

The expected numbers come from torchvision 0.28.0 (`features` of alexnet, squeezenet1_1 and vgg16) and pytorch-fid 0.3.0
(`InceptionV3`), both with torch 2.13.0 on a CPU, with the weights and images of the formulas below. With random weights
and images of 64x64, 71x97, 256x256 and the smallest size, ours agreed with theirs to the last bit on that machine.
"""

import math

import pytest
import torch

from midguide.nn.inception import FEATURES, Inception, load_inception
from midguide.nn.perceptual_features import BODIES, activations, load_layers

TORCHVISION = {
    "alexnet": [0.697694, 1.028726, 1.324599, 1.162196, 1.142419],
    "squeezenet1.1": [0.715733, 2.038067, 3.277295, 4.076335, 3.315884, 3.874074, 2.82934],
    "vgg16": [0.831206, 1.631133, 1.451061, 0.81246, 0.604108],
}
PARAMETERS = {"alexnet": 2_469_696, "squeezenet1.1": 722_496, "vgg16": 14_714_688}  # of torchvision's `features`


def image(*shape):
    """Values in [-1, 1]."""
    return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64).square() % 97).reshape(shape).float()


def weights(network):
    """Convolutions of variance 2 / inputs, small biases, moments and scales near those of standard normal values."""
    made = {}
    shapes = {name: value.shape for name, value in network.state_dict().items() if "num_batches" not in name}
    for k, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        wave = torch.sin(i * i % 10007 + 1.3 * k).reshape(shape)
        if len(shape) == 4:
            wave = wave * 2 / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("running_var", "bn.weight")):
            wave = 1 + 0.3 * wave
        else:
            wave = 0.1 * wave
        made[name] = wave.float()
    return made


def empty(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("name", sorted(BODIES))
def test_activations_are_those_of_torchvision(name):
    body = BODIES[name]
    layers = load_layers(body, weights(empty(body.make)))
    with torch.no_grad():
        found = activations(layers, body.taps, image(2, 3, 64, 64))
    assert [len(x[0]) for x in found] == list(body.channels)
    # Six decimals were kept, of values about 1; another order of float32 sums changes the sixth at most.
    assert [float(x.double().square().mean().sqrt()) for x in found] == pytest.approx(TORCHVISION[name], abs=5e-6)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_bodies_have_the_parameters_of_torchvision(name):
    assert sum(value.numel() for value in empty(BODIES[name].make).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(BODIES))
def test_smallest_image_is_the_smallest_that_fits(name):
    body = BODIES[name]
    layers = load_layers(body, weights(empty(body.make)))
    with torch.no_grad():
        assert min(activations(layers, body.taps, image(1, 3, body.smallest, body.smallest))[-1].shape[2:]) == 1
        with pytest.raises(RuntimeError, match="too small"):
            activations(layers, body.taps, image(1, 3, body.smallest - 1, body.smallest - 1))


def test_inception_features_are_those_of_pytorch_fid():
    network = load_inception(weights(empty(Inception)) | {"fc.weight": torch.zeros(1008, FEATURES)})
    with torch.no_grad():
        features = network(image(2, 3, 64, 64)).double()
    assert features.shape == (2, FEATURES)
    assert float(features.mean()) == pytest.approx(1.6741211, rel=1e-5)  # float32 sums through 94 layers
    assert float(features.square().mean().sqrt()) == pytest.approx(2.7793690, rel=1e-5)
    assert features[0, :3].tolist() == pytest.approx([0.0036521847, 1.5760853, 5.5139265], rel=1e-4)
    assert features[1, -3:].tolist() == pytest.approx([0.0, 0.0, 0.1641459], rel=1e-3, abs=1e-6)


def test_weights_of_another_network_are_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        load_layers(BODIES["alexnet"], weights(empty(BODIES["vgg16"].make)))
