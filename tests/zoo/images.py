"""Images to images, other normalisations and poolings, series and volumes."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo.base import Net, entry
from tests.zoo.convnets import pooled


@entry(1, 8, 8, eps=0.002)
def unet():
    def forward(net, x):
        a = F.relu(net.down1(x))
        b = F.relu(net.down2(F.max_pool2d(a, 2)))
        up = torch.cat([a, net.up(b)], dim=1)
        return net.out(F.relu(net.merge(up)))

    return Net(
        forward, down1=nn.Conv2d(1, 2, 3, padding=1), down2=nn.Conv2d(2, 4, 3, padding=1),
        up=nn.ConvTranspose2d(4, 2, 2, 2), merge=nn.Conv2d(4, 2, 3, padding=1),
        out=nn.Conv2d(2, 1, 1),
    )  # fmt: skip


@entry(1, 8, 8)
def autoencoder():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(2, 1, 3, 2, 1, output_padding=1),
    )  # fmt: skip


@entry(4, 2, 2)
def generator():
    """Up from a small code by nearest neighbours, to values in (0, 1)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1), nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


@entry(1, 6, 6)
def segmentation():
    """Classes per pixel, brought to full size bilinearly."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )  # fmt: skip


@entry(1, 4, 4)
def super_resolution():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2)
    )


@entry(1, 8, 8)
def spatial_pyramid():
    """Dilated convolutions side by side."""

    def forward(net, x):
        z = torch.cat([F.relu(branch(x)) for branch in net.branches], dim=1)
        return net.head(z)

    branches = [nn.Conv2d(1, 2, 3, 2, padding=d, dilation=d) for d in (1, 2, 3)]
    return Net(forward, branches=nn.ModuleList(branches), head=pooled(6))


@entry(1, 8, 8)
def blur_pool():
    """Anti-aliased down-sampling by a fixed blur."""

    def forward(net, x):
        z = F.pad(F.relu(net.conv(x)), (1, 1, 1, 1), mode="reflect")
        return net.head(F.conv2d(z, net.blur, stride=2, groups=2))

    blur = torch.tensor([1.0, 2.0, 1.0])
    model = Net(forward, conv=nn.Conv2d(1, 2, 3, padding=1), head=pooled(2))
    model.register_buffer("blur", (blur.outer(blur) / 16).expand(2, 1, 3, 3).clone())
    return model


@entry(1, 6, 6)
def coordinates():
    """Pixel positions as two further channels."""

    def forward(net, x):
        rows = torch.linspace(0, 1, 6, dtype=x.dtype).reshape(1, 1, 6, 1)
        rows = rows.expand(x.shape[0], 1, 6, 6)
        return net.body(torch.cat([x, rows, rows.transpose(2, 3)], dim=1))

    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), pooled(4))
    return Net(forward, body=body)


@entry(1, 6, 6)
def group_norm():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.GroupNorm(2, 4), nn.ReLU(), pooled(4))


@entry(1, 6, 6)
def instance_norm():
    norm = nn.InstanceNorm2d(2, affine=True)
    return nn.Sequential(nn.Conv2d(1, 2, 3, 1), norm, nn.ReLU(), pooled(2))


@entry(1, 6, 6)
def local_response_norm():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.LocalResponseNorm(2), pooled(4))


@entry(1, 6, 6)
def global_max_pool():
    def forward(net, x):
        return net.head(F.relu(net.conv(x)).amax((2, 3)))

    return Net(forward, conv=nn.Conv2d(1, 4, 3, 2), head=nn.Linear(4, 3))


@entry(1, 6, 6)
def adaptive_max_pool():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))


@entry(1, 6, 6)
def log_sum_exp_pool():
    def forward(net, x):
        return net.head(net.conv(x).flatten(2).logsumexp(2))

    return Net(forward, conv=nn.Conv2d(1, 4, 3, 2), head=nn.Linear(4, 3))


@entry(1, 6, 6, intervals=True)
def power_pool():
    """The root of the mean square."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Softplus(), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(8, 3)
    )


@entry(2, 6, 6, eps=0.002)
def convolutional_attention():
    """CBAM: gates from means and maxima over channels and over space."""

    def forward(net, x):
        z = F.relu(net.conv(x))
        channels = torch.sigmoid(net.mlp(z.mean((2, 3))) + net.mlp(z.amax((2, 3))))
        z = z * channels[:, :, None, None]
        maps = torch.cat([z.mean(1, keepdim=True), z.amax(1, keepdim=True)], dim=1)
        return net.head(z * torch.sigmoid(net.spatial(maps)))

    return Net(
        forward, conv=nn.Conv2d(2, 4, 3, 2), mlp=nn.Linear(4, 4),
        spatial=nn.Conv2d(2, 1, 1), head=pooled(4),
    )  # fmt: skip


@entry(1, 6, 6)
def unfolded():
    """A convolution written as unfold and a matrix product."""

    def forward(net, x):
        columns = F.unfold(x, 3, stride=3)
        return net.head(F.relu(net.weight @ columns).flatten(1))

    return Net(forward, weight=nn.Parameter(torch.randn(3, 9)), head=nn.Linear(12, 3))


@entry(1, 6, 6, missing=("aten.grid_sampler_2d.default",))
def spatial_transformer():
    """Resampling on a grid that depends on the image."""

    def forward(net, x):
        theta = net.locate(x.flatten(1)).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, [x.shape[0], 1, 6, 6], align_corners=False)
        return net.head(F.grid_sample(x, grid, align_corners=False).flatten(1))

    return Net(forward, locate=nn.Linear(36, 6), head=nn.Linear(36, 3))


@entry(2, 12)
def convolution_on_series():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, 2), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    )


@entry(2, 10)
def temporal_convolution():
    """Causal dilated convolutions with residual connections."""

    def forward(net, x):
        x = net.lift(x)
        for dilation, layer in zip((1, 2), net.layers, strict=True):
            x = x + F.relu(layer(F.pad(x, (2 * dilation, 0))))
        return net.head(x[:, :, -1])

    layers = [nn.Conv1d(4, 4, 3, dilation=d) for d in (1, 2)]
    return Net(forward, lift=nn.Conv1d(2, 4, 1), layers=nn.ModuleList(layers), head=nn.Linear(4, 3))


@entry(2, 8)
def wavenet():
    """Gated dilated convolutions: tanh times sigmoid."""

    def forward(net, x):
        total = 0.0
        for layer in net.layers:
            a, b = layer(x).chunk(2, dim=1)
            x = torch.tanh(a) * torch.sigmoid(b)
            total = total + x.mean(2)
        return net.head(total)

    layers = [nn.Conv1d(2, 4, 2, dilation=d) for d in (1, 2)]
    return Net(forward, layers=nn.ModuleList(layers), head=nn.Linear(2, 3))


@entry(1, 4, 4, 4)
def volume():
    return nn.Sequential(
        nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(2, 3)
    )


@entry(1, 4, 4, 4)
def volume_max_pool():
    return nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(16, 3)
    )
