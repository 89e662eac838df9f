"""What reads the picture: residual networks as torchvision's, weights from elsewhere, and the U-Net."""

import pytest
import torch
from safetensors.torch import save_file
from settings import SMALL

from cryopares_core.commands.train import main
from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.model.encoder import make_encoder
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.pretrained import load_pretrained
from cryopares_core.model.resnet import ResNetEncoder, auto_output_stride
from cryopares_core.model.unet import UNetEncoder

# torchvision's without the head.
WEIGHTS = {"resnet18": 11_176_512, "resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160, "resnet152": 58_143_808}


@pytest.mark.parametrize("name", WEIGHTS)
def test_residual_networks_are_torchvisions(name):
    with torch.device("meta"):
        encoder = ResNetEncoder(name, in_channels=3)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == WEIGHTS[name]
    assert {"layer4.1.bn2.running_var", "layer2.0.downsample.0.weight"} <= set(encoder.state_dict())


@pytest.mark.parametrize("stride", [8, 32])
def test_the_last_strides_can_be_left_out(stride):
    encoder = ResNetEncoder("resnet18", output_stride=stride)
    assert encoder(torch.zeros(1, 1, 64, 64)).shape == (1, 512, 64 // stride, 64 // stride)
    assert [auto_output_stride(size) for size in (32, 64, 160, 256)] == [4, 8, 16, 32]


def weights_like_torchvisions():
    torch.manual_seed(1)
    weights = ResNetEncoder("resnet18", in_channels=3).state_dict()
    return weights | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "wrapped.pth"])
def test_weights_from_elsewhere_act_as_on_a_grey_picture(tmp_path, name, channels):
    weights = weights_like_torchvisions()
    if name.endswith("safetensors"):
        save_file(weights, tmp_path / name)
    else:
        torch.save({"state_dict": weights} if name.startswith("wrapped") else weights, tmp_path / name)
    colour, ours = ResNetEncoder("resnet18", 3).eval(), ResNetEncoder("resnet18", channels).eval()
    colour.load_state_dict({key: value for key, value in weights.items() if not key.startswith("fc")})
    load_pretrained(ours, tmp_path / name)
    picture = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(ours(picture.expand(-1, channels, -1, -1)), colour(picture.expand(-1, 3, -1, -1)))


def test_unusable_weights_are_refused_before_anything_else(tmp_path, capsys):
    encoder = ResNetEncoder("resnet18")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(ResNetEncoder("resnet34").state_dict(), tmp_path / "larger.pth")
    for name, phrase in (
        ("text.pth", "cannot be read"),
        ("none.pth", "does not exist"),
        ("larger.pth", "layer1.2.bn1.bias is unknown"),
    ):
        with pytest.raises(UserError, match=phrase):
            load_pretrained(encoder, tmp_path / name)
    option = f"models.image2sphere.imageencoder.resnet.weights_fname={tmp_path / 'larger.pth'}"
    common = [
        "--symmetry",
        "C1",
        "--particles_star_fname",
        "absent.star",
        "--train_save_dir",
        str(tmp_path),
        "--config",
        *SMALL,
        option,
    ]
    assert main(common) == 2
    assert "needs a residual network" in capsys.readouterr().err
    assert main([*common, "models.image2sphere.imageencoder.resnet.resnetName=resnet18"]) == 2
    assert "holds no weights of this network" in capsys.readouterr().err


@pytest.mark.parametrize("size, stride", [(16, 4), (33, 4), (50, 4), (64, 4), (97, 4), (128, 8), (160, 8), (256, 16)])
def test_the_u_net_sees_the_whole_picture_and_keeps_a_fine_map(size, stride):
    encoder = UNetEncoder(1, size, 8).eval()
    picture = torch.randn(1, 1, size, size, requires_grad=True)
    for block in encoder.modules():  # at the start its residual blocks hand on what they get
        if hasattr(block, "bn2"):
            torch.nn.init.ones_(block.bn2.weight)
    features = encoder(picture)
    side = -(-size // stride)
    assert encoder.output_stride == stride
    assert features.shape == (1, encoder.out_channels, side, side)
    features[0, :, side // 2, side // 2].square().sum().backward()
    seen = picture.grad[0, 0].abs() > 0
    assert seen[size // 2].float().mean() > 0.8
    assert seen[:, size // 2].float().mean() > 0.8


def test_features_stand_where_their_pixels_are():
    """A picture moved by the stride moves the map by a pixel, also through the coarse maps when it moves by theirs."""
    torch.manual_seed(2)
    for encoder, step in ((UNetEncoder(1, 64, 8), 16), (ResNetEncoder("resnet18", output_stride=8), 8)):
        encoder.eval()
        picture = torch.zeros(1, 1, 128, 128)
        picture[0, 0, 40:60, 40:60] = torch.randn(20, 20)
        moved = torch.roll(picture, (step, step), (-2, -1))
        count = step // encoder.output_stride
        with torch.no_grad():
            before, after = encoder(picture), encoder(moved)
        expected = torch.roll(before, (count, count), (-2, -1))
        assert (after - expected).norm() < 0.1 * expected.norm()  # the sides are near
        assert (after - before).norm() > 0.5 * expected.norm()


@pytest.mark.parametrize("name", [None, "resnet18"])
def test_the_settings_name_the_encoder(name):
    settings = Config().models.image2sphere.imageencoder
    settings.resnet.resnetName = name
    assert isinstance(make_encoder(settings, 1, 64), ResNetEncoder if name else UNetEncoder)


@pytest.mark.parametrize("name", [None, "resnet18"])
def test_the_whole_step_compiles_into_one_graph(name):
    settings = Config().models.image2sphere
    settings.lmax, settings.so3components.so3outputgrid.hp_order = 3, 0
    settings.so3components.i2sprojector.sphere_fdim, settings.so3components.s2conv.f_out = 8, 4
    settings.imageencoder.resnet.resnetName, settings.imageencoder.unet.width = name, 8
    torch.manual_seed(3)
    network = PoseNetwork(settings, "C2", 32).eval()
    compiled = torch.compile(network.scores, fullgraph=True, backend="eager")
    images, angles = torch.randn(2, 1, 32, 32), torch.rand(2, 3) * 90
    for found, expected in zip(compiled(images, angles), network.scores(images, angles), strict=True):
        torch.testing.assert_close(found, expected)
    compiled(images, angles)[2].sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
