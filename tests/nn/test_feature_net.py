"""The small classifier: its file, and features that belong to one image each."""

import pytest
import torch

from midguide.errors import CheckpointError
from midguide.maths.rng import global_seed
from midguide.nn.feature_net import FeatureNet, FeatureNetConfig, load_feature_net, save_feature_net

CONFIG = FeatureNetConfig(channels=8, classes=(4, 3), event_shape=(1, 16, 16))


@pytest.fixture
def network():
    with global_seed(0):
        return FeatureNet(CONFIG).eval()


def images(count=5):
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_file_holds_the_network_to_the_precision_of_bfloat16(network, tmp_path):
    save_feature_net(tmp_path / "net.safetensors", network.state_dict(), CONFIG)
    stored, sha256 = load_feature_net(tmp_path / "net.safetensors")
    assert stored.config == CONFIG
    assert len(sha256) == 64
    rounded = FeatureNet(CONFIG).eval()
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in network.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(stored.features(images()), rounded.features(images()))


def test_features_of_an_image_do_not_depend_on_its_batch(network):
    with torch.no_grad():
        together, alone = network.features(images()), torch.cat([network.features(x[None]) for x in images()])
    assert together.shape == (5, CONFIG.features)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)  # order of float32 sums


def test_answers_have_the_classes_of_each_question(network):
    assert [tuple(logits.shape) for logits in network(images())] == [(5, 4), (5, 3)]


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="feature network .* does not"):
        load_feature_net(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(CheckpointError, match="feature network .* cannot be read"):
        load_feature_net(tmp_path / "text.safetensors")
